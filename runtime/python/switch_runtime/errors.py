"""What can go wrong, as exceptions. All of them are SwitchError."""

__all__ = [
    "Cancelled",
    "Failed",
    "InvalidArgument",
    "InvalidModel",
    "MissingLibrary",
    "OutOfMemory",
    "SwitchError",
]


class SwitchError(Exception):
    """Base of every error of switch_runtime."""


class InvalidArgument(SwitchError, ValueError):
    """An option or an input is wrong; the model stays usable."""


class InvalidModel(SwitchError):
    """The directory is missing, damaged, altered or newer than this library."""


class MissingLibrary(SwitchError):
    """Our own native library or ONNX Runtime's cannot be found or loaded."""


class OutOfMemory(SwitchError, MemoryError):
    """The call needs more memory than there is; the model stays usable."""


class Cancelled(SwitchError):
    """The call was ended through its CancelToken; the model stays usable."""


class Failed(SwitchError):
    """Anything else, e.g. the engine reported an error."""
