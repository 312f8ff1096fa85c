"""10,000 calls of every kind on one model; prints the anonymous memory along the way, in KiB.

    python tests/steady_memory.py DIRECTORY

tests/test_threads.py runs it in a process of its own, where nothing else takes memory.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import switch_runtime

CALLS, FIRST = 10_000, 500
THREADS = 4


def anonymous() -> int:
    """Return RssAnon of this process in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])


def lower(_ids, scores) -> None:
    """A logits processor."""
    scores[:, 5] -= 1


def call(model: switch_runtime.Model, number: int) -> None:
    """Make call `number`: greedy, beams, sampling with a callback, scores, an abandoned stream."""
    rows = [
        [2 + (number * 7 + j) % 120 for j in range(1 + number * k % 11)]
        for k in range(1, 2 + number % 3)
    ]
    match number % 5:
        case 0:
            model.generate(rows, max_new_tokens=3)
        case 1:
            model.generate(rows, max_new_tokens=3, num_beams=2, no_repeat_ngram_size=2)
        case 2:
            model.generate(
                rows, max_new_tokens=3, do_sample=True, seed=number, logits_processor=lower
            )
        case 3:
            model.score(rows, rows)
        case _:
            next(model.stream_ids(rows[0], max_new_tokens=3), None)


def main(directory: str) -> None:
    """Print the memory after the first calls, then after each tenth of all."""
    with switch_runtime.load(directory, threads=1) as model:
        # From several threads, so that the allocator has made its pools for them.
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda number: call(model, number), range(FIRST)))
        print(anonymous(), flush=True)
        for number in range(FIRST, CALLS):
            call(model, number)
            if number % (CALLS // 10) == CALLS // 10 - 1:
                print(anonymous(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
