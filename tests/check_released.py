"""Export the real google/switch-base-8 and compare its decoding with published answers.

Needs a network (or the checkpoint in huggingface_hub's cache) and 5 GB of disk:

    python tests/check_released.py [MODEL]      a directory or hub id instead
"""

import shutil
import sys
import tempfile
from pathlib import Path

MODEL = "google/switch-base-8"
#: Published ids, https://github.com/Watson1978/narray-llm python/fixtures/switch-base-8_greedy.json
#: (transformers 5.16, which dropped no token; fp32).
IDS = [
    ([37, 3, 9, 3155, 13, 32099, 19, 32098, 5, 1], [32099, 34, 32098, 5]),
    (
        [8774, 15, 3, 9, 794, 1],
        [32099, 5, 32098, 3, 9, 3, 7, 6983, 397, 13, 8, 3, 7, 232, 5, 3, 9, 385, 720, 5, 3, 5, 5,
         32097],
    ),
]
#: The integration tests of transformers (tests/models/switch_transformers; bfloat16 there).
TEXTS = [
    ("The human walks into a bar and orders a <extra_id_0>", ["drink."]),
    (
        "A <extra_id_0> walks into a bar a orders a <extra_id_1> with <extra_id_2> pinch of "
        "<extra_id_3>.",
        ["man", "beer", "a", "salt", "."],
    ),
]


def check_ids(model) -> list[tuple[str, object, object]]:
    """Published ids: (what, expected, computed); compared over the published length."""
    rows = []
    for source, expected in IDS:
        computed = model.generate([source], max_new_tokens=len(expected) + 1)[0].token_ids
        rows.append((f"ids of {source[:4]}...", expected, computed[: len(expected)]))
    return rows


def check_texts(model) -> list[tuple[str, object, object]]:
    """The words between the sentinels, in order."""
    rows = []
    for text, expected in TEXTS:
        computed = model.generate([text], max_new_tokens=20)[0].text
        words = computed.split()
        rows.append((f"{text[:40]}...", " ".join(expected), " ".join(words)))
    return rows


def main(model: str) -> int:
    """Print a table; the exit code is 1 where an answer differs or the checkpoint is missing."""
    import switch_export
    import switch_runtime

    folder = Path(tempfile.mkdtemp(prefix="check-released-"))
    try:
        print(f"exporting {model} with capacity none", flush=True)
        summary = switch_export.export(model, folder / "exported", capacity="none")
        print(f"exported in {summary.seconds:.0f} s, error {summary.verification.error:.2g}")
        loaded = switch_runtime.load(summary.path)
        rows = [*check_ids(loaded), *check_texts(loaded)]
    except (switch_export.ExportError, OSError) as error:
        print(f"cannot check {model}: {error}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    wrong = 0
    for what, expected, computed in rows:
        wrong += expected != computed
        print(f"{'ok   ' if expected == computed else 'WRONG'} {what}")
        if expected != computed:
            print(f"      expected {expected}\n      computed {computed}")
    print(f"{len(rows) - wrong} of {len(rows)} answers as published")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or [MODEL])))
