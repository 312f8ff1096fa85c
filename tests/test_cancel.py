"""What ends a call early: a token, Ctrl-C, an exception of a callback."""

import subprocess
import sys
import threading
import time
import traceback

import pytest

import switch_runtime
from switch_runtime import Cancelled, CancelToken

SOURCE = [5, 6, 7, 1]
LONG = {"max_new_tokens": 20_000, "eos_token_id": []}  # half a minute


# Tokens.


@pytest.mark.usefixtures("stays_usable")
@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_token_ends_a_call_from_another_thread(tiny_model, num_beams):
    token = CancelToken()
    timer = threading.Timer(0.2, token.cancel)
    timer.start()
    start = time.perf_counter()
    with pytest.raises(Cancelled, match="cancelled") as caught:
        tiny_model.generate(SOURCE, num_beams=num_beams, cancel=token, **LONG)
    assert 0.15 < time.perf_counter() - start < 1.5
    assert isinstance(caught.value, switch_runtime.SwitchError)
    assert token.cancelled


def test_a_call_is_cancelled_on_any_thread(tiny_model):
    token, caught = CancelToken(), []

    def work() -> None:
        try:
            tiny_model.generate(SOURCE, cancel=token, **LONG)
        except Cancelled as error:
            caught.append(error)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    time.sleep(0.2)
    token.cancel()
    for worker in workers:
        worker.join(timeout=5)
    assert len(caught) == 3


def test_a_token_that_is_not_cancelled_changes_nothing(tiny_model):
    token = CancelToken()
    found = tiny_model.generate(SOURCE, cancel=token, max_new_tokens=5)
    assert found == tiny_model.generate(SOURCE, max_new_tokens=5)
    assert not token.cancelled
    assert token._flags == []


@pytest.mark.parametrize("call", ["generate", "score", "encode"])
def test_a_cancelled_token_ends_a_later_call_at_once(tiny_model, encoder_model, call):
    token = CancelToken()
    token.cancel()
    calls = {
        "generate": lambda: tiny_model.generate(SOURCE, cancel=token, **LONG),
        "score": lambda: tiny_model.score(SOURCE, [4, 1], cancel=token),
        "encode": lambda: encoder_model.encode(SOURCE, cancel=token),
    }
    with pytest.raises(Cancelled):
        calls[call]()


# Callbacks.


class Rude(Exception):
    """What a callback raises."""


@pytest.mark.usefixtures("stays_usable")
@pytest.mark.parametrize("name", ["logits_processor", "progress"])
@pytest.mark.parametrize("kind", [Rude, KeyboardInterrupt, SystemExit, StopIteration])
def test_what_a_callback_raises_reaches_the_caller_with_its_traceback(tiny_model, name, kind):
    error = kind("so there")

    def rude(*_arguments) -> None:
        raise error

    with pytest.raises(kind) as caught:
        tiny_model.generate(SOURCE, max_new_tokens=3, **{name: rude})
    assert caught.value is error
    assert error.__context__ is None
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "rude"


def test_nothing_is_decoded_after_a_callback_has_raised(tiny_model):
    steps = []

    def rude(input_ids, _scores) -> None:
        steps.append(input_ids.shape[1])
        if len(steps) == 3:
            raise Rude

    with pytest.raises(Rude):
        tiny_model.generate(SOURCE, logits_processor=rude, **LONG)
    assert steps == [1, 2, 3]


def test_what_the_progress_of_score_and_encode_raises_reaches_the_caller(
    tiny_model, encoder_model
):
    def rude(_done: int, _total: int) -> None:
        raise Rude

    with pytest.raises(Rude):
        tiny_model.score([SOURCE, SOURCE], [[4, 1], [4, 1]], progress=rude)
    with pytest.raises(Rude):
        encoder_model.encode([SOURCE, SOURCE], progress=rude)


def test_a_callback_may_use_the_model(tiny_model):
    inner = []

    def nested(_ids, _scores) -> None:
        inner.append(tiny_model.generate(SOURCE, max_new_tokens=4))

    outer = tiny_model.generate(SOURCE, max_new_tokens=4, logits_processor=nested)
    assert inner
    assert all(found == outer for found in inner)


# Ctrl-C.

CTRL_C = """
import os, signal, sys, threading, time
import switch_runtime
model = switch_runtime.load(sys.argv[1])
before = model.generate([5, 6, 7, 1], max_new_tokens=4)
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
start = time.perf_counter()
try:
    model.generate([5, 6, 7, 1], num_beams=2, max_new_tokens=20000, min_new_tokens=20000)
except KeyboardInterrupt:
    print("interrupted", time.perf_counter() - start < 1.5)
print("usable", model.generate([5, 6, 7, 1], max_new_tokens=4) == before)
"""

CTRL_C_IN_FORWARD = """
import os, signal, sys, threading
import switch_runtime
model = switch_runtime.load(sys.argv[1])
source, target = [5] * 500, [6] * 500
threading.Timer(0.05, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(3)]).start()
try:
    while True:
        model.forward(source, target)
except KeyboardInterrupt:
    print("interrupted")
print(model.forward([5], [6]).shape)
"""

TOKEN_IN_A_SIGNAL_HANDLER = """
import os, signal, sys, threading
import switch_runtime
model = switch_runtime.load(sys.argv[1])
token = switch_runtime.CancelToken()
signal.signal(signal.SIGTERM, lambda *_: token.cancel())
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
try:
    model.generate([5, 6, 7, 1], max_new_tokens=20000, min_new_tokens=20000, cancel=token)
except switch_runtime.Cancelled as error:
    print(error)
"""


def run(code: str, *arguments: object) -> list[str]:
    """The lines that a program prints; it must succeed and print nothing to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_ctrl_c_ends_a_long_decode_and_the_process_goes_on(tiny_directory):
    assert run(CTRL_C, tiny_directory) == ["interrupted True", "usable True"]


def test_ctrl_c_is_heard_at_the_end_of_forward(tiny_directory):
    assert run(CTRL_C_IN_FORWARD, tiny_directory) == ["interrupted", "(1, 131)"]


def test_a_signal_handler_may_cancel(tiny_directory):
    assert run(TOKEN_IN_A_SIGNAL_HANDLER, tiny_directory) == ["cancelled by the caller"]
