"""Recorded rows: JSON lines, appended one by one, the last of a key counts."""

import json
from collections.abc import Callable, Hashable
from pathlib import Path


def read(path: Path) -> list[dict]:
    """Return the rows of a file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def append(path: Path, row: dict) -> None:
    """Add one row at once, so that a run that is cut off loses nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def latest(rows: list[dict], key: Callable[[dict], Hashable]) -> list[dict]:
    """Return the last row of every key, in the order in which the keys first came."""
    return list({key(row): row for row in rows}.values())


def shares_above_one(rows: list[dict]) -> list[str]:
    """Return what is wrong with rows that claim more than the bandwidth ceiling."""
    return [
        f"{row.get('shape', '')} {row.get('engine', row.get('measure', ''))}: "
        f"{row['ceiling_share']:.1%} of the bandwidth ceiling: the ceiling or the bytes are wrong"
        for row in rows if (row.get("ceiling_share") or 0) > 1
    ]
