"""Measure cells and append their rows to benchmarks/results/suite.jsonl.

    python -m switch_bench.suite            # the README's cells, at most 20 minutes on two cores
    python -m switch_bench.suite --full     # every cell; hours, goes on where it was cut off

A cell's row is appended as soon as it is measured, and is not measured again at the same commit.
"""

import itertools
from pathlib import Path

import click

from switch_bench import ctranslate, exports, fresh, machine, report, rows, tables
from switch_bench.bandwidth import ceiling
from switch_bench.cells import Cell
from switch_bench.engines import BODIES, Absent, Ours, Transformers
from switch_bench.measure import Run, measure_cell
from switch_bench.paths import WORK

QUICK = (Cell(1, 1, 32, 32), Cell(8, 1, 32, 32), Cell(1, 4, 32, 32))
FULL = tuple(
    Cell(*cell) for cell in itertools.product((1, 4, 8), (1, 4), (32, 128, 512), (32, 128))
)
_QUICK_SHAPES = ("base-8", "switch-tiny")
_LOADS = 2  # more loads, of cached files, after the first


def built(make, *arguments: object, **options: object):
    """Return an engine (or several), or None after saying why there is none."""
    from switch_runtime import SwitchError

    try:
        return make(*arguments, **options)
    except (Absent, SwitchError) as error:
        click.echo(f"absent: {arguments[0]} {arguments[1]}: {error}")
        return None


def ours(shape: str, precision: str, threads: int, plugin: bool = True) -> Ours:
    """Export where needed and load, three times for the load phase, once more for the memory."""
    directory = exports.directory(shape, precision)
    memory = fresh.memory_of(directory, threads, plugin)
    engine = Ours(directory, threads, plugin)
    engine.process_mib = memory.pop("process_mib")
    engine.loaded |= memory
    engine.loads = [engine.loaded["seconds"], *engine.load_again(_LOADS)]
    return engine


def all_engines(shape: str, threads: int, full: bool) -> dict:
    """Return every engine that a shape is measured with, ours last, by name."""
    made = []
    if shape != "base-64":  # nothing else holds 64 experts in memory beside ours
        for precision in ("fp32", "bf16"):
            made.append(built(Transformers, exports.checkpoint(shape), precision, threads))
    if shape == "base-8":
        peers = built(ctranslate.engines, WORK, threads, "decode_ms")
        made += peers or []
        for trial in peers[0].trials if peers else ():
            click.echo(f"CTranslate2 setting: {trial}")
    if not full:
        made.append(built(ours, shape, "fp32", threads, plugin=False))
    made += [built(ours, shape, precision, threads) for precision in exports.PRECISIONS[shape]]
    return {engine.name: engine for engine in made if engine is not None}


def shown(row: dict) -> str:
    """Return one line about a row."""
    step, share = row["phases_ms"]["per_token"]["p50"], row.get("ceiling_share")
    text = f"{row['shape']:12} {row['engine']:32} {step:9.3f} ms/step"
    if share is not None:
        text += f"  {share:4.0%} of the ceiling"
    if "same_ids" in row:
        text += f"  same ids: {row['same_ids']}"
    if "same_ids_margin" in row:
        text += f" (margin {row['same_ids_margin']:.1e})"
    return text


def measured(shape: str, wanted: list[Cell], run: Run, full: bool, result: Path) -> None:
    """Measure the cells of one shape that have no rows of this commit, appending each."""
    commit = run.facts["commit"]
    done = {tables.key(row) for row in rows.read(result) if row["commit"] == commit}
    engines = None
    for cell in wanted:
        names = engines or {
            name for at, name, *_ in done if at == shape and not (full and name.endswith(BODIES))
        }
        keys = [(shape, name, cell.batch, cell.beams, cell.source, cell.new) for name in names]
        if keys and set(keys) <= done:
            click.echo(f"{shape} {cell}: done at {commit}")
            continue
        engines = engines or all_engines(shape, run.threads, full)
        click.echo(f"{shape} {cell}")
        for row in measure_cell(shape, cell, engines, run):
            rows.append(result, row)
            click.echo(shown(row))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--full", is_flag=True, help="Every cell instead of the README's.")
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(exports.PRECISIONS)),
              help="Only this shape; more than once for several.")
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--result", type=click.Path(path_type=Path), default=report.SUITE,
              help="Rows go here.")
@click.option("--readme/--no-readme", default=True, help="Write the tables afterwards.")
def main(full: bool, shapes: tuple[str, ...], threads: int, repeats: int, result: Path,
         readme: bool) -> None:
    """Measure the suite; rows are appended as they are measured."""
    WORK.mkdir(parents=True, exist_ok=True)
    limit = ceiling(threads)
    if limit.best is None:
        click.echo(f"absent: {limit.reason}")
    run = Run(threads, repeats, limit, machine.describe(threads))
    for shape in shapes or (tuple(exports.PRECISIONS) if full else _QUICK_SHAPES):
        measured(shape, list(FULL if full else QUICK), run, full, result)
    if readme:
        report.write_all()


if __name__ == "__main__":
    main()
