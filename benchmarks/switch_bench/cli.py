"""switch-bench: where the time and the memory of one model directory go, on this machine."""

import sys
from pathlib import Path

import click

from switch_bench.cells import Cell

_LOADS = 2  # more loads, of cached files, after the first


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--batch", default=1, show_default=True, help="Sources decoded together.")
@click.option("--beams", default=1, show_default=True, help="1 is greedy.")
@click.option("--source", default=32, show_default=True, help="Tokens of each source.")
@click.option("--new", default=32, show_default=True, type=click.IntRange(min=2),
              help="Tokens decoded, exactly that many.")
@click.option("--threads", default=0, help="0: one per core (default).")
@click.option("--repeats", default=9, show_default=True, type=click.IntRange(min=1))
def main(directory: Path, batch: int, beams: int, source: int, new: int, **choices: int) -> None:
    """Measure the model in DIRECTORY on random token ids.

    Phases come from decoding 1 token and --new tokens: per token = (t(new) - t(1)) / (new - 1),
    encode = t(1) - per token; percentiles are over the repeats, each with other sources.
    """
    from switch_runtime import SwitchError

    try:
        row, reason = _measured(directory, Cell(batch, beams, source, new), **choices)
    except SwitchError as error:
        raise click.ClickException(str(error)) from None
    click.echo("\n".join(lines(row)))
    if reason:
        click.echo(f"\n{reason}")
    if (row["ceiling_share"] or 0) > 1:
        sys.exit("more than the bandwidth ceiling: the machine was busy; measure again")


def _measured(directory: Path, cell: Cell, threads: int, repeats: int) -> tuple[dict, str]:
    """Return the row of suite.jsonl's kind, and why a share is missing."""
    import os

    from switch_bench import machine
    from switch_bench.bandwidth import ceiling
    from switch_bench.engines import Ours
    from switch_bench.measure import Run, measure_cell

    threads = threads or os.cpu_count() or 1
    engine = Ours(directory, threads)
    engine.loads = [engine.loaded["seconds"], *engine.load_again(_LOADS)]
    limit = ceiling(threads)
    run = Run(threads, repeats, limit, machine.describe(threads), judge=False)
    row = measure_cell(directory.name, cell, {engine.name: engine}, run)[0]
    reason = getattr(limit, "reason", "")
    if not reason and not row["rotates"]:
        reason = (f"no share of the bandwidth ceiling: the timed part touches "
                  f"{row['touched_mib']:.0f} MiB, which the caches hold in part")
    return row, reason


def lines(row: dict) -> list[str]:
    """Return the table of a row."""
    made = [
        f"{row['shape']}: {row['engine']}, {Cell(*(row[n] for n in _CELL))}, "
        f"{row['threads']} threads ({row['cpu']})", "",
        f"{'ms':<12}{'p50':>10}{'p90':>10}{'p99':>10}{'samples':>9}",
    ]
    for name, figures in row["phases_ms"].items():
        values = "".join(f"{figures[p]:>10.3f}" for p in ("p50", "p90", "p99"))
        made.append(f"{name.replace('_', ' '):<12}{values}{figures['n']:>9}")
    step, experts = sum(row["step_bytes"].values()), row["distinct_experts"]
    facts = {
        "tokens/s": f"{row['tokens_per_second']:.1f}",
        "load": f"{row['anonymous_mib']:.0f} MiB anonymous, {row['file_mib']:.0f} MiB of files",
        "process now": "{RssAnon:.0f} MiB anonymous, {RssFile:.0f} MiB of files".format(
            **row["process_mib"]),
        "on disk": f"{row['disk_mib']:.0f} MiB",
        "step reads": f"{step / 1e6:.1f} MB",
        "experts": f"{sum(experts) / len(experts):.2f} distinct of a layer per step"
        if experts else "no sparse decoder layer",
    }
    if row["ceiling"]:
        facts["ceiling"] = f"{row['ceiling'] / 1e9:.1f} GB/s read"
    if row["ceiling_share"] is not None:
        facts["ceiling"] += f", {row['ceiling_share']:.0%} of it in a step"
    return [*made, "", *(f"{name:<12}{text}" for name, text in facts.items())]


_CELL = ("batch", "beams", "source", "new")

if __name__ == "__main__":
    main(prog_name="switch-bench")
