"""Ending a native call from another thread."""

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class CancelToken:
    """Ends the calls that it was given to: `model.generate(..., cancel=token)`.

    Usable from any thread and from signal handlers, for any number of calls. A cancelled token
    stays cancelled: a call that gets it later ends at once.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may meet its own thread in here
        self._cancelled = False
        self._flags: list[ctypes.c_int32] = []

    def cancel(self) -> None:
        """End the calls within one decoder step; they raise Cancelled."""
        with self._lock:
            self._cancelled = True
            for flag in self._flags:
                flag.value = 1

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    @contextlib.contextmanager
    def attached(self, flag: ctypes.c_int32) -> Iterator[None]:
        """Let `cancel` set the flag that a native call reads."""
        with self._lock:
            self._flags.append(flag)
            if self._cancelled:
                flag.value = 1
        try:
            yield
        finally:
            with self._lock:
                self._flags = [other for other in self._flags if other is not flag]
