"""Timing: engines in turn over the same inputs, phases from two lengths of decoding.

No engine has a call for one phase alone that does only that, so phases come from two timings on
the same rows: t(1), one new token, and t(n), n new tokens.

    per token   = (t(n) - t(1)) / (n - 1)
    first token = t(1)                      encoder, cross keys and values, the first step
    encode      = t(1) - per token          what t(1) has beyond one step
    total       = t(n)

Each repeat gives one sample of each; percentiles are over the repeats.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from switch_bench.cells import Cell, Rows


@dataclass
class Samples:
    """Seconds of each repeat: `first` for one new token, `total` for `new`."""

    new: int
    first: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)

    @property
    def per_token(self) -> list[float]:
        """Seconds of a step after the first, one per repeat."""
        pairs = zip(self.first, self.total, strict=True)
        return [(total - first) / (self.new - 1) for first, total in pairs]

    def phases(self) -> dict[str, dict[str, float]]:
        """Return phase -> percentiles in ms."""
        pairs = zip(self.first, self.per_token, strict=True)
        return {
            "encode": percentiles([first - step for first, step in pairs]),
            "first": percentiles(self.first),
            "per_token": percentiles(self.per_token),
            "total": percentiles(self.total),
        }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return p50, p90 and p99 in ms, and the number of samples as "n"."""
    values = np.percentile(np.array(seconds) * 1e3, (50, 90, 99))
    return dict(zip(("p50", "p90", "p99"), values.tolist(), strict=True)) | {"n": len(seconds)}


def seconds_of(call: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleave(engines: dict, inputs: list[Rows], cell: Cell, ceiling) -> dict[str, Samples]:
    """Time every engine in turn on each of `inputs`, the ceiling before and after.

    An untimed token comes first: the other engines have just emptied the caches, and their idle
    threads may still be spinning for a moment.

    Args:
        engines: name -> engine, see engines.py.
        inputs: the rows of each repeat.
        ceiling: probed around every repeat; see bandwidth.py.
    """
    samples = {name: Samples(cell.new) for name in engines}
    for rows in inputs:
        ceiling.probe()
        for name, engine in engines.items():
            engine.decode(rows, cell, 1)
            samples[name].first.append(seconds_of(lambda e=engine, r=rows: e.decode(r, cell, 1)))
            samples[name].total.append(
                seconds_of(lambda e=engine, r=rows: e.decode(r, cell, cell.new))
            )
    ceiling.probe()
    return samples


def interleave_calls(calls: dict[str, Callable], repeats: int, ceiling) -> dict[str, list[float]]:
    """Time plain calls in turn, each given the number of the repeat; seconds of each.

    An untimed call comes first, as in `interleave` and for its reasons.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        ceiling.probe()
        for name, call in calls.items():
            call(repeat)
            taken[name].append(seconds_of(lambda c=call, r=repeat: c(r)))
    ceiling.probe()
    return taken
