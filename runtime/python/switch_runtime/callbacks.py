"""Python callables as the callbacks of a native call.

A native call cannot carry an exception: the callback ends the call and keeps the exception, which
`reraise` throws again once the call has come back.
"""

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING

from switch_runtime import native
from switch_runtime.errors import InvalidArgument

if TYPE_CHECKING:
    import numpy

Processor = Callable[["numpy.ndarray", "numpy.ndarray"], "numpy.ndarray | None"]
Progress = Callable[[int, int], object]


class Callbacks:
    """The callbacks of one call. Keep it as long as the call lasts."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def logits(self, processor: Processor) -> object:
        """Let `processor` see ids [rows, length] and change scores [rows, vocabulary]."""

        def on_logits(_user_data: object, step: object) -> int:
            return self._guard(_process, processor, step.contents)

        return native.LogitsCallback(on_logits)

    def token(self, receive: Callable[[int], object]) -> object:
        """Hand every token of the only sequence to `receive` as it is chosen."""

        def on_token(_user_data: object, _sequence: int, token: int) -> int:
            return self._guard(receive, token) if token >= 0 else 0

        return native.TokenCallback(on_token)

    def progress(self, progress: Progress) -> object:
        """Let `progress(done, total)` know of finished sources."""

        def on_progress(_user_data: object, done: int, total: int) -> int:
            return self._guard(progress, done, total)

        return native.ProgressCallback(on_progress)

    def reraise(self) -> None:
        """Raise what a callback raised, unchanged."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame

    def _guard(self, function: Callable, *arguments: object) -> int:
        try:
            function(*arguments)
        except BaseException as error:
            self._error = error
            return 1
        return 0


def _process(processor: Processor, step: native.Step) -> None:
    """Show the processor copies, so that it may keep them: the native memory goes on changing."""
    import numpy

    scores_at = ctypes.addressof(step.scores.contents)
    ids = numpy.empty((step.rows, step.length), numpy.int64)
    scores = numpy.empty((step.rows, step.vocab_size), numpy.float32)
    ctypes.memmove(ids.ctypes.data, step.ids, ids.nbytes)
    ctypes.memmove(scores.ctypes.data, scores_at, scores.nbytes)
    changed = processor(ids, scores)
    if changed is None:
        changed = scores
    shape = getattr(changed, "shape", None)
    if shape is None or tuple(shape) != scores.shape:
        found = type(changed).__name__ if shape is None else f"an array of shape {tuple(shape)}"
        raise InvalidArgument(
            f"logits_processor returned {found}, expected scores of shape {scores.shape}, or None "
            "for scores changed in place"
        )
    changed = numpy.ascontiguousarray(changed, numpy.float32)
    ctypes.memmove(scores_at, changed.ctypes.data, changed.nbytes)
