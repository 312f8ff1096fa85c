"""Time on a GPU: graphs that are replayed between events, and a deadline for the whole run.

Without a GPU the same functions run eagerly by the host's clock: that checks the code around them,
and its figures mean nothing.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

#: Cycles that the device is kept busy for before each measurement, so that what is measured is
#: queued when it begins: a graph's own launch by the host is not part of it.
_AHEAD = 200_000
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def synchronize() -> None:
    """Wait for the device; an error of a kernel shows here."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Deadline:
    """Seconds that a run has."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        return self._end - time.monotonic()


@dataclass(frozen=True)
class Taken:
    """Microseconds of one call: the median of `repeats` measurements, and the middle half."""

    us: float
    low: float
    high: float
    repeats: int


def summary(samples: list[float]) -> Taken:
    """Return the median of microseconds, and what the middle half of them lies between."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return Taken(middle, low, high, len(samples))


def capture(body: Callable[[], None]) -> Callable[[], None]:
    """Run `body` twice beside the current stream, as PyTorch asks; then return its graph's replay.

    Raises RuntimeError where it cannot be captured.
    """
    if DEVICE == "cpu":
        body()
        return body
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            body()
    torch.cuda.current_stream().wait_stream(side)
    synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


def time_device(
    body: Callable[[], None], calls: int = 1, seconds: float = 0.2,
    before: Callable[[], None] | None = None,
) -> Taken:
    """Time `body`, which makes `calls` calls, between events on the current stream.

    Args:
        seconds: for all repeats together; there are 5 to 200.
        before: done ahead of each repeat, outside the time.
    """
    if DEVICE == "cpu":
        return time_host(body, 2, calls, before)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    samples: list[float] = []
    began = time.monotonic()
    while len(samples) < 7 or (time.monotonic() - began < seconds and len(samples) < 202):
        if before is not None:
            before()
        torch.cuda._sleep(_AHEAD)
        start.record()
        body()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) * 1000 / calls)
    return summary(samples[2:])  # the first two warm up


def time_host(
    body: Callable[[], None], repeats: int, calls: int = 1,
    before: Callable[[], None] | None = None,
) -> Taken:
    """Time `body` by the host's clock, the device idle before and after: for eager code."""
    samples = []
    for _ in range(repeats + 1):
        if before is not None:
            before()
        synchronize()
        began = time.perf_counter()
        body()
        synchronize()
        samples.append((time.perf_counter() - began) * 1e6 / calls)
    return summary(samples[1:])
