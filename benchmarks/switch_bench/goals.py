"""Measure what the project has to reach, and say whether it does.

    python -m switch_bench.goals                     # every group, each in a process of its own
    python -m switch_bench.goals --group decode      # one group, in this process

Figures go to benchmarks/results/goals.jsonl as they come, the table into docs/performance.md.
"""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import click

from switch_bench import goal_layers, goal_models, machine, report, rows
from switch_bench.bandwidth import Ceiling, NoCeiling, ceiling
from switch_bench.goal_list import GOALS, table
from switch_bench.measure import Run
from switch_bench.paths import WORK

#: name -> function and repeats. Layers take microseconds, so they are repeated more.
GROUPS = {
    "memory": (goal_models.memory, 1),
    "match": (goal_models.match, 1),
    "layer": (goal_layers.layer, 30),
    "decode": (goal_models.decode, 9),
    "beams": (goal_models.beams, 9),
    "encode": (goal_models.encode, 9),
    "experts": (goal_models.experts, 9),
    "compiled": (goal_models.compiled, 3),
}
_NO_CEILING = ("memory", "match")  # the probe's buffer would count as memory


def measured(group: str, run: Run, result: Path) -> None:
    """Run one group in this process and append its findings."""
    function, _ = GROUPS[group]
    for finding in function(run):
        row = {"group": group, **asdict(finding), "repeats": run.repeats, **run.facts}
        if group not in _NO_CEILING:
            row["ceiling"] = run.ceiling.best
        rows.append(result, row)
        seen = "-" if finding.seen is None else f"{finding.seen:.4g}"
        click.echo(f"{group:9} {finding.what}: {seen}  {finding.how}")


def in_own_processes(groups: tuple[str, ...], arguments: list[str]) -> list[str]:
    """Run each group in a process of its own; return those that failed."""
    failed = []
    for group in groups:
        command = [sys.executable, "-m", "switch_bench.goals", "--group", group, *arguments]
        if subprocess.run(command, check=False).returncode:
            click.echo(f"*** {group} failed; its message is above", err=True)
            failed.append(group)
    return failed


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--group", type=click.Choice(list(GROUPS)), help="Only this one, in this process.")
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", type=int, help="Instead of each group's own number.")
@click.option("--result", type=click.Path(path_type=Path), default=report.GOALS,
              help="Rows go here.")
def main(group: str | None, threads: int, repeats: int | None, result: Path) -> None:
    """Measure the goals; exit 1 when a `must` is missed or a group fails."""
    WORK.mkdir(parents=True, exist_ok=True)
    if group is not None:
        limit = _limit(group, threads)
        run = Run(threads, repeats or GROUPS[group][1], limit, machine.describe(threads))
        measured(group, run, result)
        return
    arguments = ["--threads", str(threads), "--result", str(result)]
    failed = in_own_processes(
        tuple(GROUPS), arguments + (["--repeats", str(repeats)] if repeats else [])
    )
    found = rows.read(result)
    click.echo(table(found))
    if result == report.GOALS:
        report.write_all()
    seen = {row["goal"]: row["seen"] for row in found}
    missed = [goal.key for goal in GOALS if goal.verdict(seen.get(goal.key)) == "missed"]
    if failed or missed:
        sys.exit(f"missed: {', '.join(missed) or 'none'}; failed: {', '.join(failed) or 'none'}")


def _limit(group: str, threads: int) -> Ceiling | NoCeiling:
    return NoCeiling("not probed") if group in _NO_CEILING else ceiling(threads)


if __name__ == "__main__":
    main()
