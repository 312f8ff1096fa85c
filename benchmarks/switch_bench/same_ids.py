"""Whether ids are right: against the same weights on another path; agreement with fp32.

    python -m switch_bench.same_ids DIR THREADS < jobs.json     # what `body_ids` starts

fp32 is judged against transformers, where that is there. Everything else is judged against the
same directory without the plugin: the function bodies compute with the same quantised weights.
That runs in a process of its own, so that what the bodies allocate is not counted as ours.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from switch_bench.cells import Cell, Rows

_TIMEOUT = 900  # seconds; bodies of quantised weights are slow
_PADDING_AND_END = {0, 1}
#: Quantised products round each token to 255 steps: a value that lies between two of them falls
#: either way with the last bit of a sum, and what follows differs by about 1 %. Two tokens, or two
#: hypotheses, that are nearer than this are a tie; a wrong kernel's are not near at all.
TIE = 0.02


def equal(expected: Rows, found: Rows) -> bool:
    """Whether ids are equal, but for the end token and padding that transformers keeps."""
    def one(e: list[int], f: list[int]) -> bool:
        return e[: len(f)] == f and set(e[len(f):]) <= _PADDING_AND_END

    return len(expected) == len(found) and all(map(one, expected, found))


def agreement(expected: Rows, found: Rows) -> float:
    """Return the share of tokens before the first difference, averaged over the rows."""
    shares = []
    for e, f in zip(expected, found, strict=True):
        length = min(len(e), len(f))
        first = next((i for i in range(length) if e[i] != f[i]), length)
        shares.append(first / max(len(e), len(f), 1))
    return sum(shares) / len(shares)


def margin(model, rows: Rows, expected: Rows, found: Rows) -> float:
    """Return how close the decision was that fell differently, at its worst over the rows.

    That is the difference of the two tokens' logits at the first difference, relative to the
    largest logit there: near 0 is a tie that the last bits decide, and greedy search only.
    """
    worst = 0.0
    for source, e, f in zip(rows, expected, found, strict=True):
        at = next((i for i, (a, b) in enumerate(zip(e, f, strict=False)) if a != b), None)
        if at is not None:
            logits = model.forward(source, e[: at + 1])[at]
            worst = max(worst, float(abs(logits[e[at]] - logits[f[at]]) / abs(logits).max()))
    return worst


def score_gap(model, rows: Rows, expected: Rows, found: Rows) -> float:
    """Return how far apart the scores of hypotheses are that differ, at its worst over the rows.

    The log-probabilities of both under `model`, per token, relative to the larger: what `margin`
    is to greedy search, for beams.
    """
    import numpy as np

    def score(source: list[int], target: list[int]) -> float:
        logits = model.forward(source, target).astype(np.float64)
        normal = logits - logits.max(-1, keepdims=True)
        chosen = np.take_along_axis(normal, np.array(target)[:, None], -1)[:, 0]
        return float((chosen - np.log(np.exp(normal).sum(-1))).mean())

    worst = 0.0
    for source, e, f in zip(rows, expected, found, strict=True):
        if e != f:
            a, b = score(source, e), score(source, f)
            worst = max(worst, abs(a - b) / max(abs(a), abs(b)))
    return worst


def body_ids(directory: Path, cell: Cell, rows: Rows, threads: int) -> Rows | str:
    """Return what the directory decodes without the plugin, or why that is not known."""
    job = json.dumps({"cell": asdict(cell), "rows": rows})
    command = [sys.executable, "-m", "switch_bench.same_ids", str(directory), str(threads)]
    try:
        done = subprocess.run(
            command, input=job, capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return f"the function bodies took more than {_TIMEOUT} s"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        return f"the run without the plugin failed: {''.join(last)}"
    return json.loads(done.stdout)


def _main(directory: str, threads: str) -> None:
    from switch_bench.engines import Ours

    job = json.load(sys.stdin)
    cell = Cell(**job["cell"])
    engine = Ours(Path(directory), int(threads), plugin=False)
    print(json.dumps(engine.decode(job["rows"], cell, cell.new)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
