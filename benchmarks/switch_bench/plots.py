"""Plots of the recorded rows as SVG; each only where there are rows for it."""

import json
from pathlib import Path

from switch_bench.paths import RESULTS

PROFILE = RESULTS / "profile.jsonl"  # rows {"shape", "precision", "parts": {part: microseconds}}
_QUICK = (1, 1, 32, 32)


def write(suite: list[dict], goals: list[dict], folder: Path) -> list[Path]:
    """Draw what there are rows for into `folder`; return the paths."""
    drawings = {
        "peers.svg": (_peers, [r for r in suite if r["shape"] == "base-8" and _quick(r)]),
        "experts.svg": (_experts, [r for r in goals if r["group"] == "experts" and r["samples"]]),
        "parts.svg": (_parts, _profile()),
    }
    drawings = {name: entry for name, entry in drawings.items() if entry[1]}
    if not drawings:
        return []
    try:
        import matplotlib as mpl
    except ImportError:
        print("absent: matplotlib; no plots are drawn (pip install 'switch-export[bench]')")
        return []
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "switch-bench"  # the same rows give the same bytes
    folder.mkdir(parents=True, exist_ok=True)
    return [_draw(folder / name, *entry) for name, entry in drawings.items()]


def _quick(row: dict) -> bool:
    cell = tuple(row[name] for name in ("batch", "beams", "source", "new"))
    return cell == _QUICK and row.get("same_ids") is not False


def _profile() -> list[dict]:
    if not PROFILE.exists():
        return []
    return [json.loads(line) for line in PROFILE.read_text(encoding="utf-8").splitlines()]


def _draw(path: Path, drawing, rows: list[dict]) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.4 * max(6, len(rows)) + 1))
    drawing(axes, rows)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _peers(axes, rows: list[dict]) -> None:
    """Bars: ms per token of every engine, batch 1."""
    rows = sorted(rows, key=lambda row: -row["phases_ms"]["per_token"]["p50"])
    values = [row["phases_ms"]["per_token"]["p50"] for row in rows]
    colours = ["C0" if row["engine"].startswith("switch_runtime") else "0.7" for row in rows]
    bars = axes.barh([row["engine"] for row in rows], values, color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_xlabel("ms per token, batch 1, base-8")


def _experts(axes, rows: list[dict]) -> None:
    """A line: ms per token against the number of experts."""
    last = {int(row["what"].split()[0].removeprefix("decoder-")): row for row in rows}
    counts = sorted(last)
    axes.plot(counts, [last[count]["samples"]["p50"] for count in counts], "o-")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("experts of a layer")
    axes.set_ylabel("ms per token, int8, batch 1")


def _parts(axes, rows: list[dict]) -> None:
    """Stacked bars: which part of a step takes which share."""
    names = list(dict.fromkeys(part for row in rows for part in row["parts"]))
    labels = [f"{row['shape']} {row['precision']}" for row in rows]
    left = [0.0] * len(rows)
    for name in names:
        sizes = [100 * row["parts"].get(name, 0) / sum(row["parts"].values()) for row in rows]
        axes.barh(labels, sizes, left=left, label=name)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    axes.set_xlabel("% of a step")
    axes.legend(fontsize="small")
