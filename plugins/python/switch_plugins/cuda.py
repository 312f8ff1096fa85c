"""The CUDA kernels (plugins/core/cuda/switch_cuda.h) through ctypes.

Pointers are plain integers, such as a tensor's `data_ptr()`; None or 0 is NULL. Whoever calls keeps
what they point to alive until the device has run the call. Nothing here imports torch.

    kernels = load()
    kernels.moe(Stream(torch.cuda.current_stream().cuda_stream, overlap=1), Moe(x=..., ...))
"""

import ctypes
from pathlib import Path

__all__ = [
    "ACTIVATIONS", "DROPPED", "NO_ACTIVATION", "TYPES", "CachedAttention", "CrossAttention",
    "CudaError", "Kernels", "Linear", "Moe", "Router", "Stream", "Weight", "library_path", "load",
]

_LIBRARY = Path(__file__).parent / "lib" / "libswitch_cuda.so"

# Precision -> SWITCH_CUDA_FLOAT32, ...
TYPES = {"fp32": 0, "fp16": 1, "bf16": 2, "int8": 3, "int4": 4}
# Activation, by transformers' names (switch_plugins.spec) -> SWITCH_RELU, ...
ACTIVATIONS = {
    "relu": 0, "gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2, "silu": 3, "swish": 3,
}
NO_ACTIVATION = -1
DROPPED = {"zero": 0, "pass": 1}

_POINTER, _INT32, _INT64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


class CudaError(RuntimeError):
    """A call that was refused, or that CUDA could not start; the message says why."""


class Stream(ctypes.Structure):
    """Where kernels run (a cudaStream_t), and whether one may start while the last one ends."""

    _fields_ = [("stream", _POINTER), ("overlap", _INT32)]


class Weight(ctypes.Structure):
    """A stack of matrices [count, rows, columns]."""

    _fields_ = [
        ("data", _POINTER), ("scale", _POINTER), ("type", _INT32), ("block", _INT32),
        ("count", _INT64), ("rows", _INT64), ("columns", _INT64),
    ]


class Moe(ctypes.Structure):
    """One call of SwitchMoE."""

    _fields_ = [
        ("x", _POINTER), ("x_type", _INT32), ("activation", _INT32), ("is_gated", _INT32),
        ("dropped", _INT32), ("accumulate", _INT32), ("tokens", _INT64), ("expert", _POINTER),
        ("gate", _POINTER), ("wi", Weight), ("wo", Weight), ("y", _POINTER),
        ("workspace", _POINTER), ("workspace_bytes", ctypes.c_size_t),
    ]


class Linear(ctypes.Structure):
    """One product of a decoder step, with the norm before it."""

    _fields_ = [
        ("x", _POINTER), ("x_type", _INT32), ("norm", _POINTER), ("normed_type", _INT32),
        ("epsilon", ctypes.c_float), ("tokens", _INT64), ("weight", Weight),
        ("activation", _INT32), ("is_gated", _INT32), ("accumulate", _INT32), ("y", _POINTER),
        ("y_type", _INT32),
    ]


class Router(ctypes.Structure):
    """One call of SwitchRouter."""

    _fields_ = [
        ("x", _POINTER), ("delta", _POINTER), ("norm", _POINTER), ("epsilon", ctypes.c_float),
        ("classifier", _POINTER), ("bias", _POINTER), ("batch", _INT64), ("tokens", _INT64),
        ("columns", _INT64), ("experts", _INT64), ("capacity", _INT64), ("sum", _POINTER),
        ("normed", _POINTER), ("normed_type", _INT32), ("expert", _POINTER), ("gate", _POINTER),
    ]


class CachedAttention(ctypes.Structure):
    """One call of SwitchCachedAttention."""

    _fields_ = [
        ("qkv", _POINTER), ("key", _POINTER), ("value", _POINTER), ("position", _POINTER),
        ("bias", _POINTER), ("rows", _INT64), ("tokens", _INT64), ("heads", _INT64),
        ("size", _INT64), ("capacity", _INT64), ("distance", _INT64), ("type", _INT32),
        ("y", _POINTER), ("new_key", _POINTER), ("new_value", _POINTER),
    ]


class CrossAttention(ctypes.Structure):
    """One call of SwitchCrossAttention."""

    _fields_ = [
        ("q", _POINTER), ("key", _POINTER), ("value", _POINTER), ("mask", _POINTER),
        ("rows", _INT64), ("tokens", _INT64), ("heads", _INT64), ("size", _INT64),
        ("batch", _INT64), ("source", _INT64), ("type", _INT32), ("y", _POINTER),
    ]


_STREAM = ctypes.POINTER(Stream)
# Function -> result and arguments.
SIGNATURES = {
    "switch_cuda_moe_workspace": (ctypes.c_size_t, [ctypes.POINTER(Moe)]),
    "switch_cuda_moe_run": (ctypes.c_int, [_STREAM, ctypes.POINTER(Moe)]),
    "switch_cuda_linear_run": (ctypes.c_int, [_STREAM, ctypes.POINTER(Linear)]),
    "switch_cuda_router_run": (ctypes.c_int, [_STREAM, ctypes.POINTER(Router)]),
    "switch_cuda_cached_attention_run": (ctypes.c_int, [_STREAM, ctypes.POINTER(CachedAttention)]),
    "switch_cuda_cross_attention_run": (ctypes.c_int, [_STREAM, ctypes.POINTER(CrossAttention)]),
    "switch_cuda_last_error": (ctypes.c_char_p, []),
}


class Kernels:
    """The functions of a library. Those that run raise CudaError where a call is refused."""

    def __init__(self, library: ctypes.CDLL):
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._library = library

    def moe_workspace(self, moe: Moe) -> int:
        """Return the bytes of workspace that `moe` needs, by its shapes and types alone."""
        size = self._library.switch_cuda_moe_workspace(moe)
        if size == 0:
            raise CudaError(self._last_error())
        return size

    def moe(self, stream: Stream, moe: Moe) -> None:
        """Start a SwitchMoE."""
        self._check(self._library.switch_cuda_moe_run(stream, moe))

    def linear(self, stream: Stream, linear: Linear) -> None:
        """Start a product."""
        self._check(self._library.switch_cuda_linear_run(stream, linear))

    def router(self, stream: Stream, router: Router) -> None:
        """Start a router."""
        self._check(self._library.switch_cuda_router_run(stream, router))

    def cached_attention(self, stream: Stream, attention: CachedAttention) -> None:
        """Start an attention over a cache."""
        self._check(self._library.switch_cuda_cached_attention_run(stream, attention))

    def cross_attention(self, stream: Stream, attention: CrossAttention) -> None:
        """Start an attention over a source."""
        self._check(self._library.switch_cuda_cross_attention_run(stream, attention))

    def _check(self, status: int) -> None:
        if status != 0:
            raise CudaError(self._last_error())

    def _last_error(self) -> str:
        return (self._library.switch_cuda_last_error() or b"").decode()


def library_path() -> Path | None:
    """Return the CUDA kernel library of this package, or None where it has not been built."""
    return _LIBRARY if _LIBRARY.is_file() else None


def load(path: str | Path | None = None) -> Kernels:
    """Load a CUDA kernel library: the one at `path`, or this package's own.

    Raises FileNotFoundError when it has not been built.
    """
    found = library_path() if path is None else Path(path)
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"the CUDA kernel library has not been built: {found or _LIBRARY} does not exist.\n"
            "It needs nvcc: cmake -S plugins/core/cuda -B build/gpu && cmake --build build/gpu && "
            "cmake --install build/gpu --component cuda --prefix plugins/python"
        )
    return Kernels(ctypes.CDLL(str(found)))
