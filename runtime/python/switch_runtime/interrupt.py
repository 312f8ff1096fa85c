"""Ctrl-C during a native call."""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def interruptible(call: Callable[[], T], cancel: ctypes.c_int32 | None = None) -> T:
    """Run `call`, a native call and what follows it, so that the main thread hears Ctrl-C.

    Python's signal handlers run on the main thread, between its byte codes: never while that thread
    is inside a native call. So the main thread lets another one make the call and waits. When the
    wait is interrupted, `cancel` (read by the native call once per step) is set, and the exception
    goes on when the call has ended. Without `cancel` the call runs to its end first. Threads other
    than the main one get no signals and call directly.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    outcome: list[tuple[bool, object]] = []
    lock, done = threading.Lock(), threading.Event()
    entered = abandoned = False

    def work() -> None:
        nonlocal entered
        with lock:
            entered = not abandoned
        if not entered:
            return
        try:
            outcome.append((True, call()))
        except BaseException as error:
            outcome.append((False, error))
        finally:
            done.set()

    try:
        threading.Thread(target=work, name="switch_runtime").start()
        done.wait()
    except BaseException:
        if cancel is not None:
            cancel.value = 1
        with lock:
            abandoned = True
        while entered and not done.is_set():
            try:
                done.wait()
            except KeyboardInterrupt:
                continue  # already on the way out
        raise
    succeeded, value = outcome[0]
    if succeeded:
        return value
    raise value
