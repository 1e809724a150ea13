"""A chat template is a program of others: its time, memory and output are limited."""

import resource
import signal
import time

import pytest
import tiny

from jaxdistill.data import Chat, Renderer, template_limits, tokenize_prompt
from jaxdistill.errors import UserError

CHAT = Chat(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}), 1, 1)
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set n = namespace(x='ab') %}{% for a in range(99) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (LOOPS, "it takes more than 0.3 seconds"),
        ("{{ 'x' * 10**10 }}", "it takes more than 1,073,741,824 bytes of memory"),
        ("{{ 'x' | center(10**10) }}", "it takes more than 1,073,741,824 bytes of memory"),
        (DOUBLING, "it takes more than 1,073,741,824 bytes of memory"),
        ("{{ 'x' * 10**7 }}", "it writes 10,000,000 characters of "),
    ],
)
def test_template_without_limits_is_refused_once(monkeypatch, template, reason):
    seconds = 0.3 if template == LOOPS else 20.0
    monkeypatch.setattr(template_limits, "MAX_SECONDS", seconds)
    renderer = Renderer(tiny.tokenizer(chat_template=template))
    start = time.monotonic()
    for _ in range(50):  # rows
        with pytest.raises(UserError) as caught:
            renderer.render(CHAT)
        (line,) = caught.value.lines
        assert f"is not usable: {reason}" in line
        assert line.endswith(". Give the model another template.")
    assert time.monotonic() - start < 20


def test_limits_end_with_the_rendering(monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        assert tokenize_prompt("Hi", tiny.tokenizer(), as_chat=True)
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM)) == before


def test_long_messages_are_rendered():
    messages = ({"role": "user", "content": "a" * 3_000_000}, CHAT.messages[1])
    rendered = Renderer(tiny.tokenizer()).render(Chat(messages, 1, 1))
    assert len(rendered.text) > 3_000_000
