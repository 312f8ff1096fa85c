"""Write the tables and plots from the recorded rows.

    python -m switch_bench.report           # write them
    python -m switch_bench.report --check   # exit 1 where a file differs from the rows

README.md has the quick cells between `<!-- bench -->` and `<!-- /bench -->`; docs/performance.md
has the goals and every cell, between markers of those names; docs/img has the plots.
"""

import re
import sys
from pathlib import Path

from switch_bench import goal_list, plots, rows, tables
from switch_bench.paths import RESULTS, ROOT

SUITE, GOALS = RESULTS / "suite.jsonl", RESULTS / "goals.jsonl"
README, PERFORMANCE = ROOT / "README.md", ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "img"


def replaced(text: str, marker: str, table: str) -> str:
    """Return `text` with what stands between `<!-- marker -->` and its end replaced."""
    pattern = re.compile(f"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no <!-- {marker} --> ... <!-- /{marker} --> in the text")
    return pattern.sub(lambda match: f"{match.group(1)}{table}\n{match.group(2)}", text)


def wanted() -> dict[Path, str]:
    """Return what every generated text should say; refuse rows that cannot be true."""
    suite = rows.latest(rows.read(SUITE), tables.key)
    goals = rows.read(GOALS)
    wrong = rows.shares_above_one(suite) + goal_list.impossible(goals)
    if wrong:
        raise ValueError("\n".join(["these rows cannot be true; measure them again:", *wrong]))
    texts = {}
    if suite:
        bench = tables.readme(suite)
        texts[README] = replaced(README.read_text(encoding="utf-8"), "bench", bench)
    profile = rows.read(plots.PROFILE)
    if suite or goals or profile:
        text = PERFORMANCE.read_text(encoding="utf-8")
        if goals:
            text = replaced(text, "goals", goal_list.table(goals) + tables.machine_line(goals[-1]))
        if profile:
            text = replaced(text, "profile", tables.profile(profile))
        if suite:
            text = replaced(text, "cells", tables.cells(suite))
        texts[PERFORMANCE] = text
    return texts


def write_all() -> None:
    """Write the tables, and the plots where there are rows for them."""
    for path, text in wanted().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    plots.write(rows.latest(rows.read(SUITE), tables.key), rows.read(GOALS), IMAGES)


def outdated() -> list[str]:
    """Return the files that differ from what the rows say."""
    return [
        path.name for path, text in wanted().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


if __name__ == "__main__":
    try:
        if "--check" not in sys.argv:
            write_all()
        elif found := outdated():
            sys.exit(f"{', '.join(found)}: not what benchmarks/results says; "
                     "run python -m switch_bench.report")
    except ValueError as error:
        sys.exit(str(error))
