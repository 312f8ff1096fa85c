"""The ceiling: how many bytes per second this machine reads, by native kernels."""

import ctypes

import numpy as np

STREAMS = (1, 4, 8)  # how many places each thread reads from at once
SIZE = 1 << 30  # far beyond any cache
_PASSES = 2


class MissingProbe(RuntimeError):
    """The native library that has the read kernels is not there."""


class Ceiling:
    """The highest read bandwidth seen so far; probed between timed cells, never only once.

    best: bytes per second; 0 before the first probe.
    by_streams: the best of each kernel; mib: what the buffer takes of this process.
    """

    mib = SIZE / 2**20

    def __init__(self, threads: int):
        self._read = _native_probe()
        self._threads = threads
        self._buffer = np.ones(SIZE // 4, np.float32)  # written, so that every page exists
        self.by_streams = dict.fromkeys(STREAMS, 0.0)

    @property
    def best(self) -> float:
        return max(self.by_streams.values())

    def probe(self) -> None:
        """Read the buffer with every kernel and keep the best."""
        for streams in STREAMS:
            for _ in range(_PASSES):
                found = self._read(
                    self._buffer.ctypes.data, self._buffer.nbytes, streams, self._threads
                )
                self.by_streams[streams] = max(self.by_streams[streams], found)

    def share(self, count: float, seconds: float) -> float:
        """Return which share of the ceiling it is to read `count` bytes in `seconds`."""
        return count / seconds / self.best


class NoCeiling:
    """Stands in where the probe is missing: every share is None, and `reason` says why."""

    best, mib = None, 0
    by_streams: dict[int, float] = {}

    def __init__(self, reason: str):
        self.reason = reason

    def probe(self) -> None:
        """Do nothing."""

    def share(self, _count: float, _seconds: float) -> None:
        """Return None."""


def ceiling(threads: int) -> Ceiling | NoCeiling:
    """Return the ceiling, or the stand-in that says why there is none."""
    try:
        return Ceiling(threads)
    except MissingProbe as error:
        return NoCeiling(str(error))


def _native_probe():
    """Return switch_read_bandwidth(data, bytes, streams, threads) -> bytes per second."""
    import switch_plugins

    path = switch_plugins.library_path()
    if path is None:
        raise MissingProbe(
            "no share of the bandwidth ceiling: the read kernels are in the plugin library "
            "libswitch_moe_ort.so, which has not been built; run `make native`"
        )
    library = ctypes.CDLL(str(path))
    if not hasattr(library, "switch_read_bandwidth"):
        raise MissingProbe(
            f"no share of the bandwidth ceiling: {path.name} has no switch_read_bandwidth; "
            "build it again with `make native`"
        )
    function = library.switch_read_bandwidth
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int]
    return function
