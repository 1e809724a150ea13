"""Speed and peak memory, measured on work of known cost."""

import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny

from jaxdistill.models import DecoderModel
from jaxdistill.runtimes.cost import Speed, measure_speed, peak_bytes
from jaxdistill.runtimes.jax_runtime import greedy_generator


def test_speed_is_the_best_repeat_and_ignores_the_warm_up(monkeypatch):
    # The warm-up calls would be the fastest.
    seconds, calls, now = iter([1.0, 4.0, 3.0, 5.0, 2.0, 9.0, 10.0, 8.0]), [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def generate(new_tokens: int) -> int:
        calls.append(new_tokens)
        now[0] += next(seconds)
        return 2 * new_tokens

    assert measure_speed(generate, new_tokens=8, repeats=3) == Speed(3.0, 16 / 8.0)
    assert calls == [1] * 4 + [8] * 4


def test_the_greedy_generator_ignores_eos():
    model = DecoderModel(tiny.decoder())
    generate = greedy_generator(model, model.init_params(jax.random.key(0)), [[1, 2, 3], [4]])
    assert generate(5) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="not tried on other systems")
def test_peak_memory_is_of_this_process_and_not_of_its_parent():
    held = np.ones(2**28, np.uint8)
    code = (
        "from jaxdistill.runtimes.cost import peak_bytes; held = b'1' * 2**27; del held;"
        "print(peak_bytes())"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert 2**27 < int(printed) < held.nbytes < peak_bytes()
