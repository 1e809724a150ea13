"""A second signal ends a process even while compiled code runs without end."""

import signal
import subprocess
import sys
import time

import pytest

ENDLESS_PROGRAM = """
import os, signal, jax
from jaxdistill.signal_handler import handle_signals, watch_signals

signals = signal.SIGINT, signal.SIGTERM
endless = jax.jit(lambda x: jax.lax.while_loop(lambda y: y >= 0, lambda y: (5 * y + 7) % 1009, x))
stop, exit_process = lambda _: os._exit(1), lambda: os._exit(130)
with handle_signals(stop, *signals), watch_signals(exit_process, *signals):
    endless.lower(1).compile()
    print("ready", flush=True)
    endless(1).block_until_ready()
"""
HANDLED_SIGNALS = """
import signal, time
from jaxdistill.signal_handler import handle_signals, watch_signals

received = []
signals = signal.SIGINT, signal.SIGTERM
with handle_signals(received.append, *signals), watch_signals(lambda: print("late"), *signals):
    print("ready", flush=True)
    while len(received) < 2:
        time.sleep(0.01)
    time.sleep(1.5)
print(len(received))
"""


@pytest.fixture
def start():
    processes = []

    def run(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_second_signal_ends_an_endless_program(start):
    process = start(ENDLESS_PROGRAM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None  # no handler runs
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 130


def test_handled_signals_do_not_end_a_process(start):
    process = start(HANDLED_SIGNALS)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("2\n", None)
