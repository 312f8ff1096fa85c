"""The C API of runtime/include/switch_runtime.h through ctypes: signatures, structs, status codes.

tests/test_native_signatures.py compares all of it with the header.
"""

import ctypes
import functools
import os
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_void_p,
)
from importlib.util import find_spec
from pathlib import Path

from switch_runtime import errors

LIBRARY = Path(__file__).parent / "lib" / "libswitch_runtime.so"


class SwitchModel(ctypes.Structure):
    """Opaque: a loaded model directory."""


class SwitchResult(ctypes.Structure):
    """Opaque: what one switch_generate call produced."""


class SwitchArrays(ctypes.Structure):
    """Opaque: a list of named arrays."""


class LoadOptions(ctypes.Structure):
    """switch_load_options."""

    _fields_ = [
        ("size", c_size_t),
        ("device", c_char_p),
        ("threads", c_int32),
        ("ort_library", c_char_p),
        ("plugin_library", c_char_p),
    ]


class Ids(ctypes.Structure):
    """switch_ids."""

    _fields_ = [("ids", POINTER(c_int64)), ("count", c_int64)]


class Step(ctypes.Structure):
    """switch_step."""

    _fields_ = [
        ("rows", c_int64),
        ("length", c_int64),
        ("vocab_size", c_int64),
        ("ids", POINTER(c_int64)),
        ("sources", POINTER(c_int64)),
        ("scores", POINTER(c_float)),
    ]


LogitsCallback = CFUNCTYPE(c_int32, c_void_p, POINTER(Step))
TokenCallback = CFUNCTYPE(c_int32, c_void_p, c_int64, c_int64)
ProgressCallback = CFUNCTYPE(c_int32, c_void_p, c_int64, c_int64)


class GenerateOptions(ctypes.Structure):
    """switch_generate_options."""

    _fields_ = [
        ("size", c_size_t),
        ("max_new_tokens", c_int64),
        ("max_length", c_int64),
        ("min_new_tokens", c_int64),
        ("min_length", c_int64),
        ("num_beams", c_int32),
        ("num_return_sequences", c_int32),
        ("length_penalty", c_double),
        ("early_stopping", c_int32),
        ("do_sample", c_int32),
        ("temperature", c_double),
        ("top_k", c_int64),
        ("top_p", c_double),
        ("min_p", c_double),
        ("typical_p", c_double),
        ("seed", c_int64),
        ("repetition_penalty", c_double),
        ("no_repeat_ngram_size", c_int64),
        ("encoder_no_repeat_ngram_size", c_int64),
        ("bad_words_ids", POINTER(Ids)),
        ("bad_words_count", c_int64),
        ("forced_bos_token_id", c_int64),
        ("forced_eos_token_id", Ids),
        ("suppress_tokens", Ids),
        ("begin_suppress_tokens", Ids),
        ("eos_token_id", Ids),
        ("decoder_start_token_id", c_int64),
        ("decoder_input_ids", POINTER(Ids)),
        ("decoder_input_count", c_int64),
        ("max_batch_tokens", c_int64),
        ("cancel", POINTER(c_int32)),
        ("user_data", c_void_p),
        ("on_logits", LogitsCallback),
        ("on_token", TokenCallback),
        ("on_progress", ProgressCallback),
    ]


class BatchOptions(ctypes.Structure):
    """switch_batch_options."""

    _fields_ = [
        ("size", c_size_t),
        ("max_batch_tokens", c_int64),
        ("cancel", POINTER(c_int32)),
        ("user_data", c_void_p),
        ("on_progress", ProgressCallback),
    ]


ABI_VERSION = 1  # SWITCH_ABI_VERSION

# switch_status; SWITCH_OK is no error.
STATUS = {"OK": 0, "INVALID_ARGUMENT": 1, "INVALID_MODEL": 2, "MISSING_LIBRARY": 3}
STATUS |= {"OUT_OF_MEMORY": 4, "CANCELLED": 5, "FAILED": 6}
TYPES = {"FLOAT32": 0, "INT32": 1, "INT64": 2}  # switch_type
EARLY_STOPPING = {"FALSE": 0, "TRUE": 1, "NEVER": 2}  # switch_early_stopping
POOLING = {"NONE": 0, "MEAN": 1, "MAX": 2, "FIRST": 3, "LAST": 4}  # switch_pooling

NUMPY_TYPES = {0: "float32", 1: "int32", 2: "int64"}
_EXCEPTIONS = {
    STATUS["INVALID_ARGUMENT"]: errors.InvalidArgument,
    STATUS["INVALID_MODEL"]: errors.InvalidModel,
    STATUS["MISSING_LIBRARY"]: errors.MissingLibrary,
    STATUS["OUT_OF_MEMORY"]: errors.OutOfMemory,
    STATUS["CANCELLED"]: errors.Cancelled,
}

_Model, _Result, _Arrays = POINTER(SwitchModel), POINTER(SwitchResult), POINTER(SwitchArrays)
_Ids, _Integers, _Size = POINTER(Ids), POINTER(c_int64), POINTER(c_size_t)
_Batch = POINTER(BatchOptions)

# name: (what it returns, its arguments)
SIGNATURES = {
    "switch_last_error": (c_char_p, []),
    "switch_last_status": (c_int, []),
    "switch_version": (c_char_p, []),
    "switch_abi_version": (c_int32, []),
    "switch_model_load": (_Model, [c_char_p, POINTER(LoadOptions)]),
    "switch_model_free": (None, [_Model]),
    "switch_model_describe": (c_char_p, [_Model]),
    "switch_generate_options_init": (c_int, [_Model, POINTER(GenerateOptions), c_size_t]),
    "switch_generate": (_Result, [_Model, _Ids, c_int64, POINTER(GenerateOptions)]),
    "switch_result_count": (c_size_t, [_Result]),
    "switch_result_ids": (_Integers, [_Result, c_size_t, _Size]),
    "switch_result_score": (c_float, [_Result, c_size_t]),
    "switch_result_eos": (c_int64, [_Result, c_size_t]),
    "switch_result_steps": (c_int64, [_Result]),
    "switch_result_free": (None, [_Result]),
    "switch_encode": (_Arrays, [_Model, _Ids, c_int64, c_int32, _Batch]),
    "switch_score": (_Arrays, [_Model, _Ids, _Ids, c_int64, _Batch]),
    "switch_forward": (_Arrays, [_Model, _Ids, _Ids]),
    "switch_route": (_Arrays, [_Model, _Ids, _Ids]),
    "switch_arrays_count": (c_size_t, [_Arrays]),
    "switch_arrays_name": (c_char_p, [_Arrays, c_size_t]),
    "switch_arrays_type": (c_int, [_Arrays, c_size_t]),
    "switch_arrays_shape": (_Integers, [_Arrays, c_size_t, _Size]),
    "switch_arrays_data": (c_void_p, [_Arrays, c_size_t]),
    "switch_arrays_free": (None, [_Arrays]),
}


@functools.cache
def library() -> ctypes.CDLL:
    """Open the native library once, with every function's signature set."""
    path = Path(os.environ.get("SWITCH_RUNTIME_LIBRARY") or LIBRARY)
    if not path.is_file():
        raise errors.MissingLibrary(
            f"the native library {path} does not exist. Build it with `pip install .` in the "
            "project's directory, or set SWITCH_RUNTIME_LIBRARY to the path of a "
            "libswitch_runtime.so."
        )
    try:
        opened = ctypes.CDLL(str(path))
    except OSError as error:
        raise errors.MissingLibrary(
            f"the native library {path} cannot be opened: {error}. "
            "Build it again on this machine with `pip install .` in the project's directory."
        ) from None
    if problem := _difference(opened):
        raise errors.MissingLibrary(
            f"{path} is not the library of this version: {problem}. "
            "Build it again with `pip install .` in the project's directory."
        )
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(opened, name)
        function.restype, function.argtypes = result, arguments
    return opened


def _difference(opened: ctypes.CDLL) -> str | None:
    """Say why a library cannot be called with our structs and signatures."""
    if hasattr(opened, "switch_abi_version"):
        found = opened.switch_abi_version()
        if found != ABI_VERSION:
            return f"its binary interface is {found}, expected {ABI_VERSION}"
    missing = [name for name in SIGNATURES if not hasattr(opened, name)]
    return f"it lacks {', '.join(missing)}" if missing else None


def version() -> str:
    """Return the native library's version."""
    return library().switch_version().decode()


def onnxruntime_library() -> Path | None:
    """Return $SWITCH_ORT_LIBRARY, else the pip wheel's library, else None: the core looks on.

    The wheel's Python module is not imported: it is a second copy of the engine.
    """
    if named := os.environ.get("SWITCH_ORT_LIBRARY"):
        return Path(named)
    wheel = find_spec("onnxruntime")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        found = sorted(Path(folder, "capi").glob("libonnxruntime.so*"))
        if found:
            return found[-1]
    return None


def plugin_library() -> Path | None:
    """Return $SWITCH_PLUGIN_LIBRARY, else the kernels beside the core or in the sibling package.

    "none" there is no library: the core then runs the function bodies.
    """
    if named := os.environ.get("SWITCH_PLUGIN_LIBRARY"):
        return Path(named)
    sibling = find_spec("switch_plugins")
    folders = [LIBRARY.parent]
    folders += [Path(at, "lib") for at in (sibling and sibling.submodule_search_locations) or ()]
    candidates = [folder / "libswitch_moe_ort.so" for folder in folders]
    return next((path for path in candidates if path.is_file()), None)


def error() -> errors.SwitchError:
    """Return the last failure of this thread as an exception."""
    status = library().switch_last_status()
    text = (library().switch_last_error() or b"").decode("utf-8", "replace")
    text = text or f"the native library failed with status {status} and gave no reason"
    return _EXCEPTIONS.get(status, errors.Failed)(text)


def path_argument(path: Path | None) -> bytes | None:
    """Return a path as the C API takes it."""
    return None if path is None else os.fsencode(path)
