"""Decode exported Switch Transformers models, without PyTorch.

    import switch_runtime

    model = switch_runtime.load("switch-base-8-onnx")
    for result in model.generate(["The <extra_id_0> sat on the mat."], num_beams=4):
        print(result.text)
    for piece in model.stream("The <extra_id_0> sat on the mat."):
        print(piece, end="", flush=True)
"""

from switch_runtime.cancel import CancelToken
from switch_runtime.errors import (
    Cancelled,
    Failed,
    InvalidArgument,
    InvalidModel,
    MissingLibrary,
    OutOfMemory,
    SwitchError,
)
from switch_runtime.loading import load
from switch_runtime.model import Model
from switch_runtime.results import Result, Route, Score

__all__ = [
    "CancelToken",
    "Cancelled",
    "Failed",
    "InvalidArgument",
    "InvalidModel",
    "MissingLibrary",
    "Model",
    "OutOfMemory",
    "Result",
    "Route",
    "Score",
    "SwitchError",
    "load",
]


def __getattr__(name: str) -> str:
    """`__version__` is that of the native library, which is opened on first use."""
    if name == "__version__":
        from switch_runtime import native

        return native.version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
