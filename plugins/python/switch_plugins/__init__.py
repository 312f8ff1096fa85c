"""Kernels of the SwitchMoE operator for ONNX Runtime, and the operator's description (`spec`).

Without a kernel library every exported file still runs: it carries the operator as an ONNX
function of standard operators. The library makes it faster.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["library_path", "register"]

_LIBRARY = Path(__file__).parent / "lib" / "libswitch_moe_ort.so"


def library_path() -> Path | None:
    """Return the kernel library for ONNX Runtime, or None where it has not been built."""
    return _LIBRARY if _LIBRARY.is_file() else None


def register(session_options: "onnxruntime.SessionOptions") -> None:
    """Make sessions that are created with `session_options` use our kernels.

    Raises FileNotFoundError when the kernel library has not been built.
    """
    path = library_path()
    if path is None:
        raise FileNotFoundError(
            f"the SwitchMoE kernel library has not been built: {_LIBRARY} does not exist.\n"
            "Exported models run without it (the operator's function body is used): leave out "
            "this call, or install a build that has the kernels."
        )
    session_options.register_custom_ops_library(str(path))
