"""Making a native call: cancellation, callbacks, errors, and reading what came out."""

import contextlib
import ctypes
from collections.abc import Callable
from typing import TypeVar

from switch_runtime import native
from switch_runtime.callbacks import Callbacks
from switch_runtime.cancel import CancelToken
from switch_runtime.interrupt import interruptible

T = TypeVar("T")


class Control:
    """How one call is ended early.

    Attributes:
        flag: ends the call when it becomes 1.
        callbacks: what they raise ends the call too, and is raised again.
        token: the caller's CancelToken, or None.
    """

    def __init__(self) -> None:
        self.flag = ctypes.c_int32(0)
        self.callbacks = Callbacks()
        self.token: CancelToken | None = None


def run(call: tuple, read: Callable[[object], T], free: Callable, control: Control | None) -> T:
    """Make a native call, read its result and free it.

    Args:
        call: the function and its arguments.
        read: makes Python objects of the native result.
        free: releases the native result.
        control: None for a call that nothing ends early.
    """
    function, *arguments = call

    def work() -> T:
        found = function(*arguments)
        try:
            if control is not None:
                control.callbacks.reraise()
            if not found:
                raise native.error()
            return read(found)
        finally:
            free(found)

    if control is None:
        return interruptible(work)
    token = control.token
    with token.attached(control.flag) if token else contextlib.nullcontext():
        return interruptible(work, control.flag)
