"""One loaded model in many threads, and over many calls."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from checkpoints import random_rows
from test_native import BUILD

import switch_plugins
import switch_runtime
from switch_runtime import native

THREADS = 16
ROOT = Path(__file__).resolve().parent.parent


def test_3200_requests_of_16_threads_give_what_they_give_one_by_one(tiny_directory):
    program = BUILD / "tests" / "native" / "concurrent"
    libraries = (native.onnxruntime_library(), switch_plugins.library_path())
    command = [program, tiny_directory, *libraries, THREADS, 3200]
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False
    )
    assert (result.returncode, result.stdout) == (0, "3200 requests are the same\n"), result.stderr


def favour_low(_ids, scores):
    scores[:, 40:] -= 2


def request(model: switch_runtime.Model, number: int) -> list:
    """Make request `number`, one of many kinds; what it gives, comparable."""
    rows = random_rows(number, (1 + number % 13, 4, 9)[: 1 + number % 3])
    options = {"max_new_tokens": 4 + number % 5}
    match number % 6:
        case 0:
            results = model.generate(rows, **options)
        case 1:
            results = model.generate(rows, num_beams=3, num_return_sequences=2, **options)
        case 2:
            results = model.generate(
                rows, do_sample=True, seed=number, logits_processor=favour_low, **options
            )
        case 3:
            return [score.log_probabilities.tolist() for score in model.score(rows, rows)]
        case 4:
            return list(model.stream_ids(rows[0], **options))
        case _:
            with pytest.raises(switch_runtime.InvalidArgument) as caught:
                model.generate([*rows, [number + 1000]])
            return [str(caught.value)]
    return [(result.token_ids, result.score, result.eos) for result in results]


def test_python_threads_give_what_their_requests_give_one_by_one(tiny_model):
    numbers = range(THREADS * 24)
    expected = [request(tiny_model, number) for number in numbers]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda number: request(tiny_model, number), numbers))
    assert found == expected
    assert len({str(value) for value in found}) > len(found) * 3 / 4


def test_memory_is_flat_over_10_000_calls(tiny_directory):
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "steady_memory.py", tiny_directory],
        capture_output=True, text=True, check=True,
    )
    after_first, *later = map(int, done.stdout.split())
    assert len(later) == 10
    assert max(later) < 1.01 * after_first, later
