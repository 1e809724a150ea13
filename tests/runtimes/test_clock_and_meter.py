"""The clock and the meter: what they read, on work whose cost is known."""

import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny

from jaxdistill.evals import Speed, measure_speed
from jaxdistill.models import init_params
from jaxdistill.runtimes.cost import peak_bytes
from jaxdistill.runtimes.jax_runtime import greedy_generator


def test_speed_is_that_of_the_best_repeat_and_the_first_time_does_not_count(monkeypatch):
    # The first time of each would be the fastest.
    seconds, calls, now = iter([1.0, 4.0, 3.0, 5.0, 2.0, 9.0, 10.0, 8.0]), [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def write(new_tokens: int) -> int:
        calls.append(new_tokens)
        now[0] += next(seconds)
        return 2 * new_tokens

    assert measure_speed(write, new_tokens=8, repeats=3) == Speed(3.0, 16 / 8.0)
    assert calls == [1] * 4 + [8] * 4


def test_ours_writes_as_much_as_it_is_asked():
    config = tiny.decoder()
    write = greedy_generator(config, init_params(config, jax.random.key(0)), [[1, 2, 3], [4]])
    assert write(5) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="what others do has not been tried")
def test_the_peak_is_what_this_process_once_held_and_not_what_its_parent_holds():
    held = np.ones(2**28, np.uint8)
    code = (
        "from jaxdistill.runtimes.cost import peak_bytes; held = b'1' * 2**27; del held;"
        "print(peak_bytes())"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert 2**27 < int(printed) < held.nbytes < peak_bytes()
