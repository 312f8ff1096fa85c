"""Markdown tables of the suite's rows. No speed is shown where the ids are wrong."""

_CELL = ("batch", "beams", "source", "new")
_README_CELLS = ((1, 1, 32, 32), (8, 1, 32, 32), (1, 4, 32, 32))


def key(row: dict) -> tuple:
    """Return what makes two rows the same measurement at two times."""
    return (row["shape"], row["engine"], *cell(row))


def cell(row: dict) -> tuple:
    """Return batch, beams, source and new tokens of a row."""
    return tuple(row[name] for name in _CELL)


def figure(value: float) -> str:
    """Return three figures, whole numbers from 100 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _rows(lines: list[list[str]]) -> str:
    head, *rest = lines
    divider = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, divider, *rest))


def speed(row: dict | None, name: str) -> str:
    """Return a figure of a row: ms "per_token" or the like, or "tokens/s"; "-" if ids are wrong."""
    if row is None or row.get("same_ids") is False:
        return "-"
    if name == "tokens/s":
        return figure(row["tokens_per_second"])
    return figure(row["phases_ms"][name]["p50"])


def same(rows: list[dict]) -> str:
    """Return "yes", "but ties", "no", or "-" where nobody judged, for rows together."""
    verdicts = {row.get("same_ids") for row in rows}
    if False in verdicts or None in verdicts:
        return "no" if False in verdicts else "-"
    return "but ties" if "ties" in verdicts else "yes"


def share(row: dict) -> str:
    """Return the share of the bandwidth ceiling."""
    value = row.get("ceiling_share")
    return "-" if value is None or row.get("same_ids") is False else f"{100 * value:.0f} %"


def readme(rows: list[dict]) -> str:
    """Return README.md's table: a line per shape and engine, columns from three cells."""
    first = next(row for row in rows if cell(row) in _README_CELLS)
    lines = [["model", "engine", "ms/token b1", "p99", "of the ceiling", "tokens/s b8",
              "ms/step 4 beams", "load, anonymous MiB", "on disk MiB", "same ids", "as fp32"]]
    for shape in dict.fromkeys(row["shape"] for row in rows):
        for engine in dict.fromkeys(row["engine"] for row in rows if row["shape"] == shape):
            mine = {cell(r): r for r in rows if (r["shape"], r["engine"]) == (shape, engine)}
            cells = [mine.get(wanted) for wanted in _README_CELLS]
            if cells[0] is not None:
                lines.append([shape, *_readme_line(engine, cells)])
    return (
        f"Decoding {first['new']} tokens from {first['source']}, {first['threads']} threads "
        f"({first['cpu']}); base-8 has random weights; T5-base is dense and reads as many bytes "
        "per token. As fp32: tokens before the first difference, on random sources."
        f"\n\n{_rows(lines)}{machine_line(first)}"
    )


def _readme_line(engine: str, cells: list[dict | None]) -> list[str]:
    one, eight, beams = cells
    good = one.get("same_ids") is not False
    agreement = one.get("agreement_fp32")
    ours = engine.startswith("switch_runtime")
    return [
        f"**{engine}**" if ours else engine,
        speed(one, "per_token"),
        figure(one["phases_ms"]["per_token"]["p99"]) if good else "-",
        share(one), speed(eight, "tokens/s"), speed(beams, "per_token"),
        f"{one['anonymous_mib']:.0f}", f"{one['disk_mib']:.0f}",
        same([row for row in cells if row is not None]) if ours else "-",
        "-" if agreement is None else f"{100 * agreement:.0f} %",
    ]


def cells(rows: list[dict]) -> str:
    """Return the table of every cell: phases, memory, share of the ceiling, ids."""
    lines = [["model", "engine", "batch", "beams", "source", "new", "load", "encode", "first",
              "per token p50 / p90 / p99", "total", "tokens/s", "of the ceiling",
              "experts per step", "same ids", "as fp32"]]
    for row in sorted(rows, key=lambda row: (row["shape"], cell(row))):
        token = row["phases_ms"]["per_token"]
        good, experts = row.get("same_ids") is not False, row.get("distinct_experts")
        agreement = row.get("agreement_fp32")
        lines.append([
            row["shape"], row["engine"], *map(str, cell(row)),
            figure(row["phases_ms"]["load"]["p50"]),
            speed(row, "encode"), speed(row, "first"),
            " / ".join(figure(token[p]) for p in ("p50", "p90", "p99")) if good else "-",
            speed(row, "total"), speed(row, "tokens/s"), share(row),
            f"{sum(experts) / len(experts):.2f}" if experts else "-", same([row]),
            "-" if agreement is None else f"{100 * agreement:.0f} %",
        ])
    return f"Times in ms.\n\n{_rows(lines)}"


def profile(rows: list[dict]) -> str:
    """Return the table of the profile: microseconds of a step by part, and their share."""
    names = list(dict.fromkeys(part for row in rows for part in row["parts"]))
    lines = [["part", *(f"{row['shape']} {row['precision']}" for row in rows)]]
    totals = [sum(row["parts"].values()) for row in rows]
    for name in names:
        cells_of = [row["parts"].get(name, 0.0) for row in rows]
        lines.append([name, *(
            f"{figure(part)} us, {100 * part / total:.0f} %"
            for part, total in zip(cells_of, totals, strict=True)
        )])
    lines.append(["all", *(f"{figure(total / 1e3)} ms" for total in totals)])
    return _rows(lines)


def machine_line(row: dict) -> str:
    """Return when and on what a row was measured, as a paragraph of its own."""
    versions = ", ".join(
        f"{name} {version.split('+')[0]}" for name, version in row["versions"].items()
        if version != "absent" and name not in ("numpy", "switch-export")
    )
    limit = f", {row['ceiling'] / 1e9:.1f} GB/s read ceiling" if row.get("ceiling") else ""
    return (f"\n\nMeasured {row['date']} at {row['commit']}{limit}; {versions}. "
            f"`make bench` measures again.")
