"""What the harness is told, beside NumPy on the logits, and beside its own `hf` model."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import tiny
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from scipy.special import log_softmax

from jaxdistill.errors import UserError
from jaxdistill.harness import HarnessModel
from jaxdistill.harness.generation_settings import decode_until_stop, parse_generation_kwargs

PAIRS = [
    ("What is 3 and 3?", " It is 6."),
    ("The cat", " sat on the mat, and the dog saw the cat."),
    ("", "The capital"),
    ("What is the capital of France? ", "Paris"),  # the space moves to what follows
    ("<|im_start|>user\nhello<|im_end|>\n", "there"),
    ("a " * 100, "long way"),  # more than the 64 that the model reads
    ("Zürich", " 🙂"),
]


@pytest.fixture(scope="session")
def ours(place):
    return HarnessModel(path=str(place / "model"), batch_size=4)


@pytest.fixture(scope="session")
def theirs(place):
    return get_model("hf")(
        pretrained=str(place / "model"), device="cpu", dtype="float32", batch_size=1
    )


def requests(kind: str, arguments: Sequence[tuple]) -> list[Instance]:
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def dense(model: HarnessModel, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """By `Model.logits`, the whole array of them."""
    read = (context + continuation)[-65:][:-1]
    padded = [*read, *[0] * (64 - len(read))]  # what comes after is not seen: one shape for all
    logits = np.asarray(model._model.logits([padded]), np.float64)[0, : len(read)]
    log_probs = log_softmax(logits[-len(continuation) :], axis=-1)
    places = np.arange(len(continuation))
    is_greedy = np.array_equal(log_probs.argmax(-1), continuation)
    return float(log_probs[places, continuation].sum()), is_greedy


def test_a_log_likelihood_is_that_of_the_logits(ours):
    found = ours.loglikelihood(requests("loglikelihood", PAIRS))
    assert len(found) == len(PAIRS)
    for (context, continuation), (log_prob, is_greedy) in zip(PAIRS, found, strict=True):
        if context:
            before, after = ours._encode_pair(context, continuation)
        else:
            before, after = [ours.prefix_token_id], ours.tok_encode(continuation)
        expected, greedy = dense(ours, before, after)
        np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
        assert is_greedy == greedy


def test_what_the_model_writes_itself_is_greedy(ours):
    prompt = ours.tok_encode("The cat")
    written = []
    for _ in range(3):
        logits = ours._model.logits([prompt + written])[0, -1]
        written.append(int(np.argmax(logits)))
    other = [*written[:-1], (written[-1] + 1) % 300]
    found = ours._loglikelihood_tokens([(None, prompt, written), (None, prompt, other)])
    assert [is_greedy for _, is_greedy in found] == [True, False]


def test_what_is_too_long_loses_its_beginning_and_is_counted_once(ours, caplog):
    with caplog.at_level(logging.WARNING, "jaxdistill.harness.lm_eval_model"):
        ours.loglikelihood(requests("loglikelihood", PAIRS))
    assert [record.getMessage() for record in caplog.records] == [
        "1 requests are longer than the 64 tokens that the model reads: their beginnings were "
        "left out."
    ]
    with pytest.raises(UserError, match=r"a continuation of .* is more than the 64 that"):
        ours.loglikelihood(requests("loglikelihood", [("a", " b" * 200)]))


def test_few_programs_are_compiled(place, monkeypatch):
    model = HarnessModel(path=str(place / "model"), batch_size=4)
    shapes, measure = set(), model._evaluation._jitted

    def watched(params, teacher_params, batch):
        shapes.add(batch.tokens.shape)
        return measure(params, teacher_params, batch)

    monkeypatch.setattr(model._evaluation, "_jitted", watched)
    pairs = [(None, [5] * (1 + n % 61), [7, 8]) for n in range(90)]
    model._loglikelihood_tokens(pairs)
    assert shapes == {(4, 32), (4, 64)}


def test_a_rolling_log_likelihood_scores_every_token_once(ours):
    text = "What is the capital of France? " * 20
    tokens = ours.tok_encode(text)
    assert len(tokens) > 2 * 64
    expected = dense(ours, [ours.prefix_token_id], tokens[:64])[0]
    for start in range(64, len(tokens), 64):
        end = min(start + 64, len(tokens))
        context = tokens[end - 65 : start]
        expected += dense(ours, context, tokens[start:end])[0]
    (found, nothing) = ours.loglikelihood_rolling(
        requests("loglikelihood_rolling", [(text,), ("",)])
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert nothing == 0


@pytest.mark.filterwarnings("default")
def test_the_harness_says_the_same_of_its_own_model(ours, theirs):
    asked = requests("loglikelihood", PAIRS)
    for one, other in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked), strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-5)
        assert one[1] == other[1]
    rolled = requests("loglikelihood_rolling", [("What is the capital of France? " * 20,), ("a",)])
    np.testing.assert_allclose(
        ours.loglikelihood_rolling(rolled), theirs.loglikelihood_rolling(rolled), rtol=1e-5
    )
    wanted = {"until": ["at", "<|im_end|>"], "max_gen_toks": 12, "do_sample": False}
    written = requests("generate_until", [(context or "a", wanted) for context, _ in PAIRS])
    assert ours.generate_until(written) == theirs.generate_until(written)
    chat = [{"role": "user", "content": "What is 3?"}, {"role": "assistant", "content": "It"}]
    for is_new in (True, False):
        messages = chat[: 1 if is_new else 2]
        assert ours.apply_chat_template(messages, is_new) == theirs.apply_chat_template(
            messages, is_new
        )
    assert ours.prefix_token_id == theirs.prefix_token_id
    assert ours.eot_token_id == theirs.eot_token_id


def test_requests_are_answered_as_each_of_them_asks(ours):
    def answers(*options: dict) -> list[str]:
        return ours.generate_until(requests("generate_until", [("The cat", o) for o in options]))

    greedy = {"max_gen_toks": 9}
    sampled = {"max_gen_toks": 9, "do_sample": True, "temperature": 5.0}
    one, first, two, second = answers(greedy, sampled, greedy, sampled)
    assert one == two
    assert len({one, first, second}) == 3
    assert answers(greedy, sampled, greedy, sampled) == [one, first, two, second]
    with pytest.raises(UserError, match="num_beams, no_repeat_ngram_size cannot be honoured"):
        answers({"num_beams": 4, "no_repeat_ngram_size": 2})
    with pytest.raises(UserError, match=r"64 new tokens of a model that has 64 positions\. Set"):
        answers({"max_gen_toks": 64})


def test_an_answer_ends_where_the_task_says():
    tokenizer = tiny.tokenizer()
    asked = parse_generation_kwargs(
        {"until": [" sat", "", "<|im_start|>"], "max_new_tokens": 5}, tokenizer
    )
    assert asked.stop_strings == (" sat", "<|im_start|>")
    assert asked.sampling.max_new_tokens == 5
    assert asked.sampling.temperature == 0
    for text, expected in [
        ("The cat sat on", "The cat"),
        ("The dog<|im_start|>user sat", "The dog"),
        ("The cat", "The cat"),
        (" sat", ""),
    ]:
        assert decode_until_stop(tokenizer.encode(text), asked, tokenizer) == expected


def test_a_text_that_begins_with_bos_gets_no_second(place, tmp_path):
    tiny.model_folder(tmp_path / "model")
    tiny.tokenizer(bos=True).save_pretrained(tmp_path / "model")
    model = HarnessModel(path=str(tmp_path / "model"))
    begin = model.tokenizer.bos_token_id
    assert model.prefix_token_id == begin
    for text in ("The cat", "<s>The cat"):
        assert model.tok_encode(text).count(begin) == 1
    assert begin not in model.tok_encode("The cat", add_special_tokens=False)


def test_a_batch_size_is_a_number(place):
    with pytest.raises(UserError, match="batch_size: 'auto' is not a whole number above 0"):
        HarnessModel(path=str(place / "model"), batch_size="auto")
