"""What a run measured, as text: every cell, then the goals with their verdicts.

    python -m switch_gpu_bench.goals [FILE]      prints the last run of a file of rows again
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from switch_bench import rows
from switch_gpu_bench.engines import OURS, ROUTED

_LARGEST_ERROR = 2e-2  # what is wrong by more counts as not measured
_GROUPED = "torch._grouped_mm"


@dataclass(frozen=True)
class Goal:
    """A figure of one cell, in microseconds."""

    cell: str
    engine: str
    must: float
    goal: float


GOALS = (
    Goal("1 tokens, 8 experts, bf16", ROUTED, 9, 5),
    Goal("1 tokens, 128 experts, bf16", ROUTED, 9, 5),
    Goal("8 tokens, 128 experts, bf16", OURS, 27, 20),
    Goal("32 tokens, 128 experts, bf16", OURS, 85, 70),
    Goal("4096 tokens, 8 experts, bf16", OURS, 98, 70),
    Goal("16384 tokens, 8 experts, bf16", OURS, 330, 250),
    Goal("base-8 step, batch 1", "ours, one graph", 600, 300),
)


def table(path: Path, run: str | None = None) -> str:
    """Return the tables of a run; the last one of the file where none is named."""
    found = rows.read(path)
    run = run or (found[-1]["run"] if found else "")
    mine = [row for row in found if row["run"] == run]
    parts = [_ceilings(mine), _cells(mine), _goals(mine)]
    return "\n\n".join(part for part in parts if part)


def _ceilings(found: list[dict]) -> str:
    lines = [
        f"{row['gpu']}: copy {row['copy']:.0f} GB/s (read + write), read {row['read']:.0f} GB/s, "
        f"bf16 product {row['product']:.0f} TFLOP/s, L2 {row['cache'] / 2**20:.0f} MiB"
        for row in found if row["measure"] == "ceilings"
    ]
    return "\n".join(lines)


def _cells(found: list[dict]) -> str:
    head = ("cell", "engine", "us", "floor us", "of floor", "band", "product", "error", "how")
    lines = [_line(*head)]
    for row in found:
        if row["measure"] == "ceilings":
            continue
        if "failed" in row:
            first = row["failed"].splitlines()[0] if row["failed"] else ""
            lines.append(_line(row.get("cell", ""), row.get("engine", ""), *[""] * 6, first[:60]))
            continue
        lines.append(_line(
            row["cell"], row["engine"], f"{row['us']:.1f}", f"{row['floor_us']:.1f}",
            f"{row['floor_share']:.0%}", _share(row, "bandwidth_share"),
            _share(row, "product_share"), _error(row), row["how"],
        ))
    return "\n".join(lines)


def _line(*columns: str) -> str:
    widths = (42, 34, 9, 9, 9, 6, 8, 8)
    return " ".join(
        column.ljust(width) if place < 2 else column.rjust(width)
        for place, (column, width) in enumerate(zip(columns, (*widths, 0), strict=True))
    ).rstrip()


def _share(row: dict, name: str) -> str:
    return f"{row[name]:.0%}" if name in row else "-"


def _error(row: dict) -> str:
    if not row.get("checked"):
        return "-"
    return "NaN" if row["error"] is None else f"{row['error']:.0e}"


def is_right(row: dict) -> bool:
    """Whether a row is a measurement of something that computes what it should."""
    if "us" not in row:
        return row["measure"] == "ceilings"
    return not row["checked"] or (row["error"] is not None and row["error"] < _LARGEST_ERROR)


def _goals(found: list[dict]) -> str:
    times = {(row["cell"], row.get("engine")): row for row in found if "us" in row}
    lines = [_goal_line("goal", "must", "goal", "seen", "verdict")]
    for goal in GOALS:
        row = times.get((goal.cell, goal.engine))
        must, best = f"{goal.must:g} us", f"{goal.goal:g} us"
        if row is None or not is_right(row):
            seen = "not measured" if row is None else f"wrong by {_error(row)}"
            lines.append(_goal_line(f"{goal.cell}: {goal.engine}", must, best, seen, "-"))
            continue
        verdict = _verdict(row["us"] <= goal.must, row["us"] <= goal.goal)
        name = f"{goal.cell}: {goal.engine}"
        lines.append(_goal_line(name, must, best, f"{row['us']:.1f} us", verdict))
    for name, must, best, cells in (
        ("against grouped_mm, at most 16 tokens", 3, 6, lambda tokens: tokens <= 16),
        ("against grouped_mm, 4096 tokens and more", 1, 1.2, lambda tokens: tokens >= 4096),
    ):
        ratios = [
            times[cell, _GROUPED]["us"] / row["us"] for (cell, engine), row in times.items()
            if engine == OURS and (cell, _GROUPED) in times and cells(row["tokens"])
            and is_right(row)
        ]
        worst = min(ratios, default=None)
        seen = "not measured" if worst is None else f"{worst:.2f}x at worst of {len(ratios)}"
        verdict = "-" if worst is None else _verdict(worst >= must, worst >= best)
        lines.append(_goal_line(name, f"{must:g}x", f"{best:g}x", seen, verdict))
    return "\n".join(lines)


def _verdict(must: bool, goal: bool) -> str:
    return "goal" if goal else "must" if must else "missed"


def _goal_line(*columns: str) -> str:
    widths = (58, 9, 9, 24, 8)
    return " ".join(c.ljust(width) for c, width in zip(columns, widths, strict=True)).rstrip()


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[1] / "results" / "gpu.jsonl"
    print(table(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
