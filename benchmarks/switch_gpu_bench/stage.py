"""One stage of the benchmark in a process of its own: python -m switch_gpu_bench.stage NAME ...

It writes each row at once. Before each cell it leaves the cell's number in the state file, so that
a run that a kernel broke goes on behind that cell in another process.
"""

import argparse
import faulthandler
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from switch_bench import rows
from switch_gpu_bench import ceilings, cells, engines, goals, machine
from switch_gpu_bench.ceilings import Ceilings
from switch_gpu_bench.cells import Cell, Round, Stock
from switch_gpu_bench.engines import Engine
from switch_gpu_bench.ops import CudaOps
from switch_gpu_bench.timing import DEVICE, Deadline, synchronize
from switch_gpu_bench.torch_ops import TorchOps

CELL_SECONDS = 90  # a cell that takes longer hangs
_REPEATS_SECONDS = 0.15
BROKEN, WRONG = 3, 4  # exit status: the device answers nothing any more; ours fails or is wrong


def kernels() -> CudaOps | TorchOps:
    """Return our kernels; on a machine without a GPU what stands in for them."""
    if DEVICE == "cpu":
        return TorchOps()
    from switch_plugins import cuda

    return CudaOps(cuda.load())


def engines_of(stage: str, cell: Cell, data: Round) -> Iterator[Callable[[], Engine]]:
    """Yield what a stage measures on a cell."""
    if stage == "ours":
        yield lambda: engines.ours(kernels())
        if cell.tokens <= 32 and cell.x == "bf16":
            yield lambda: engines.routed(kernels())
        return
    if cell.precision != "bf16" or cell.x != "bf16":
        return
    yield engines.grouped_mm
    yield engines.dense
    if DEVICE == "cuda":
        yield lambda: engines.triton_moe(presorted=True)
        yield lambda: engines.triton_moe(presorted=False)
    if cell.routing == "uniform" and cell.experts <= 128:
        yield lambda: engines.sparse_mlp(cell, data)


def layer_rows(stage: str, cell: Cell, stock: Stock, ceiling: Ceilings) -> Iterator[dict]:
    """Measure the engines of a cell one after another."""
    data = Round(cell, stock, ceiling.cache, DEVICE)
    for make in engines_of(stage, cell, data):
        about = {"measure": "layer", "cell": str(cell), **asdict(cell)}
        try:
            engine = make()
            about["engine"] = engine.name
            found = engines.measure(engine, data, _REPEATS_SECONDS)
        except Exception as error:  # a peer that is absent or fails costs its own row alone
            about |= {"failed": f"{type(error).__name__}: {error}"[:500]}
            traceback.print_exc()
            yield about
            synchronize()
            continue
        moved, operations = data.moved, cell.operations
        floor = ceiling.floor(moved, operations)
        taken = asdict(found.taken)
        yield about | taken | {
            "error": found.error if found.error == found.error else None,
            "checked": engine.is_cell, "how": found.how, "calls": len(data.calls),
            "floor_us": floor, "floor_share": floor / found.taken.us,
            "bandwidth_share": moved / found.taken.us / 1e3 / ceiling.bandwidth,
            "product_share": operations / found.taken.us / 1e6 / ceiling.product,
        }


def run_layers(stage: str, chosen: list[Cell], ceiling: Ceilings, arguments) -> Iterator[dict]:
    """Measure cells while there is time; cells of one format share their weights."""
    deadline = Deadline(arguments.seconds)
    stock_key, stock = None, None
    for number, cell in enumerate(chosen):
        if number < arguments.first:
            continue
        if deadline.left() < 5:
            yield {"measure": "layer", "stage": stage, "failed": f"no time left at cell {number}"}
            return
        arguments.state.write_text(str(number))
        faulthandler.dump_traceback_later(CELL_SECONDS, exit=True)
        if (cell.experts, cell.form) != stock_key:
            stock_key, stock = (cell.experts, cell.form), None
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
            stock = Stock(cell.experts, cell.form, ceiling.cache, DEVICE)
        yield from layer_rows(stage, cell, stock, ceiling)
        faulthandler.cancel_dump_traceback_later()


def select(words: list[str]) -> list[Cell]:
    """Return the cells whose text has one of the words; all without words."""
    every = cells.all_cells()
    return [cell for cell in every if not words or any(word in str(cell) for word in words)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=("ours", "peers", "steps", "step-peers"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--run", required=True, help="what the rows of one run share")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--first", type=int, default=0, help="number of the first cell")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the cells' names")
    arguments = parser.parse_args()
    ceiling, about = ceilings.measure(), machine.describe() | {"run": arguments.run}
    rows.append(arguments.output, about | {"measure": "ceilings"} | asdict(ceiling))
    if arguments.stage in ("ours", "peers"):
        found = run_layers(arguments.stage, select(arguments.only), ceiling, arguments)
    else:
        from switch_gpu_bench import steps

        found = steps.run(arguments.stage, ceiling, arguments)
    wrong = 0
    try:
        for row in found:
            rows.append(arguments.output, about | row)
            wrong += not goals.is_right(row)
            said = f"{row['us']:.2f} us" if "us" in row else row.get("failed", "")
            print(f"{row.get('cell', '')}: {row.get('engine', '')}: {said}", flush=True)
    except RuntimeError:  # a broken device answers every call so, and only another process helps
        traceback.print_exc()
        sys.exit(BROKEN)
    if wrong and arguments.stage in ("ours", "steps"):
        print(f"*** {wrong} rows of ours failed or are wrong")
        sys.exit(WRONG)


if __name__ == "__main__":
    main()
