"""The GPU benchmark's own logic, without a GPU: stages that break, verdicts, cells."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from switch_gpu_bench import __main__ as suite  # noqa: E402
from switch_gpu_bench import cells, engines, goals, stage  # noqa: E402
from switch_gpu_bench.ceilings import Ceilings  # noqa: E402


class Processes:
    """Stands in for the processes of a stage: each notes its cell and ends with a status."""

    def __init__(self, state: Path, ends: list[tuple[int | None, int]]):
        self.state, self.ends, self.firsts = state, ends, []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess:
        self.firsts.append(int(command[command.index("--first") + 1]))
        cell, status = self.ends.pop(0)
        if cell is not None:
            self.state.write_text(str(cell))
        return subprocess.CompletedProcess(command, status)


@pytest.mark.parametrize(
    ("ends", "firsts", "well"),
    [
        ([(9, 0)], [0], True),
        ([(4, stage.BROKEN), (9, 0)], [0, 5], False),  # goes on behind the cell that broke it
        ([(4, -11), (6, 1), (9, 0)], [0, 5, 7], False),
        ([(9, stage.WRONG)], [0], False),  # measured everything: not again
        ([(None, 1)], [0], False),  # did not come to a cell
    ],
)
def test_a_stage_goes_on_behind_the_cell_that_ended_it(tmp_path, monkeypatch, ends, firsts, well):
    state = tmp_path / "state"
    processes = Processes(state, ends)
    monkeypatch.setattr(suite.subprocess, "run", processes)
    arguments = Namespace(state=state, output=tmp_path / "rows.jsonl", only=[])
    assert suite.run_stage("ours", 100, arguments, "run") is well
    assert processes.firsts == firsts


def row(cell: str, engine: str, us: float, error: float | None = 1e-3, **more: object) -> dict:
    return {
        "run": "now", "measure": "layer", "cell": cell, "engine": engine, "us": us, "error": error,
        "checked": True, "how": "graph", "floor_us": 1.0, "floor_share": 1 / us,
    } | more


def verdict(path: Path, found: list[dict], goal: str) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in found))
    lines = goals.table(path, "now").splitlines()
    return next(line for line in lines if line.startswith(goal) and "  " in line).split()[-1]


@pytest.mark.parametrize(
    ("us", "error", "expected"),
    [(60.0, 1e-3, "goal"), (80.0, 1e-3, "must"), (90.0, 1e-3, "missed"), (60.0, 0.1, "-"),
     (60.0, None, "-")],
)
def test_a_verdict_counts_only_what_is_right(tmp_path, us, error, expected):
    cell = "32 tokens, 128 experts, bf16"
    found = [row(cell, "ours", us, error, tokens=32)]
    assert verdict(tmp_path / "rows", found, f"{cell}: ours") == expected


@pytest.mark.parametrize(
    ("peer", "expected"), [(70.0, "goal"), (40.0, "must"), (20.0, "missed")]
)
def test_the_worst_ratio_to_grouped_mm_counts(tmp_path, peer, expected):
    cell, better = "1 tokens, 8 experts, bf16", "8 tokens, 8 experts, bf16"
    found = [
        row(cell, "ours", 10.0, tokens=1), row(cell, "torch._grouped_mm", peer, tokens=1),
        row(better, "ours", 10.0, tokens=8), row(better, "torch._grouped_mm", 900.0, tokens=8),
    ]
    assert verdict(tmp_path / "rows", found, "against grouped_mm, at most 16") == expected


def test_rows_of_other_runs_and_failures_are_no_results(tmp_path):
    cell = "8 tokens, 128 experts, bf16"
    found = [
        row(cell, "ours", 1.0, run="before", tokens=8),
        {"run": "now", "measure": "layer", "cell": cell, "engine": "ours", "failed": "broken"},
    ]
    assert verdict(tmp_path / "rows", found, f"{cell}: ours") == "-"


def test_every_goal_has_a_cell():
    names = {str(cell) for cell in cells.all_cells()}
    assert [goal.cell for goal in goals.GOALS if goal.cell not in names] == ["base-8 step, batch 1"]


def test_skewed_routes_have_an_empty_expert_and_a_busy_one():
    cell = cells.Cell(4096, 8, routing="skewed")
    counts = torch.bincount(cells.routes(cell, torch.Generator().manual_seed(1)), minlength=8)
    assert counts[0] == 0
    assert 0.55 < counts[1] / 4096 < 0.65
    assert bool((counts[2:] > 0).all())


@pytest.fixture
def small(monkeypatch):
    """A cell of little work."""
    monkeypatch.setattr(cells, "D_MODEL", 64)
    monkeypatch.setattr(cells, "D_FF", 128)
    return cells.Cell(5, 4)


@pytest.mark.usefixtures("small")
def test_a_round_touches_more_than_the_cache_and_no_expert_of_one_token_twice():
    one = cells.Cell(1, 4)
    cache = 4 * 64 * 128 * 4 * 2
    stock = cells.Stock(4, one.form, cache, "cpu")
    calls = cells.Round(one, stock, cache, "cpu").calls
    touched = {(id(call.experts), int(call.expert)) for call in calls}
    assert len(touched) == len(calls)
    assert len(touched) * stock.expert_bytes >= cells.ROTATION * cache


def test_outputs_that_are_not_written_or_wrong_are_errors(small):
    stock = cells.Stock(4, small.form, 1, "cpu")
    data = cells.Round(small, stock, 1, "cpu")

    def engine(factor: float, tokens: int) -> engines.Engine:
        def prepare(_cell, call):
            def body() -> None:
                exact = torch.empty_like(call.y)
                engines.TorchOps().moe(call.x, call.expert, call.gate, call.experts, exact)
                call.y[:tokens] = exact[:tokens] * factor
            return body
        return engines.Engine("one", prepare)

    assert engines.measure(engine(1, 5), data, 0).error < 1e-4
    assert engines.measure(engine(1.1, 5), data, 0).error == pytest.approx(0.1, rel=0.01)
    unwritten = engines.measure(engine(1, 4), data, 0).error
    assert unwritten != unwritten


def test_floors_are_the_larger_of_bytes_and_operations():
    ceiling = Ceilings(copy=4000, read=4300, product=800, cache=1)
    assert ceiling.floor(9.44e6, 9.44e6) == pytest.approx(2.195, rel=1e-3)
    assert ceiling.floor(75.5e6, 4.0 * 4096 * 768 * 3072) == pytest.approx(48.3, rel=1e-2)
