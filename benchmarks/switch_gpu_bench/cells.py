"""The cells of the layer benchmark, and the data of one: rotating weights, inputs and routes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from switch_export.quantize import Precision
from switch_gpu_bench.ops import Experts
from switch_gpu_bench.packed import FLOATS, random_stack
from switch_gpu_bench.torch_ops import TorchOps

D_MODEL, D_FF = 768, 3072
ROTATION = 4  # times the L2 cache, before a weight is read again
_CHECKED = 64  # tokens that are compared with float64
_BUSY = 0.6  # of the tokens, on one expert of the skewed routing
_MOST_CALLS = 96  # in a graph


@dataclass(frozen=True)
class Cell:
    """One layer, one number of tokens, one routing."""

    tokens: int
    experts: int
    precision: str = "bf16"
    x: str = "bf16"
    block: int = 0
    routing: str = "uniform"

    @property
    def form(self) -> Precision:
        """How the weights are stored."""
        return Precision(self.precision, self.block)

    @property
    def operations(self) -> float:
        """Floating-point operations of one call."""
        return 4.0 * self.tokens * D_MODEL * D_FF

    def __str__(self) -> str:
        block = f"/{self.block}" if self.block else ""
        return (
            f"{self.tokens} tokens, {self.experts} experts, {self.precision}{block}"
            f"{'' if self.x == 'bf16' else ' x ' + self.x}"
            f"{'' if self.routing == 'uniform' else ', ' + self.routing}"
        )


def all_cells() -> list[Cell]:
    """Return the cells, those with a goal first."""
    goals = [Cell(1, 8), Cell(1, 128), Cell(8, 128), Cell(32, 128), Cell(4096, 8), Cell(16384, 8)]
    skewed = [Cell(*size, routing="skewed") for size in ((32, 128), (128, 8), (4096, 8))]
    grid = [Cell(tokens, experts) for experts in (8, 64, 128, 256)
            for tokens in (1, 8, 32, 128, 512)]
    types = [
        Cell(tokens, 8, precision, x, block)
        for precision, x, block in (
            ("int8", "bf16", 0), ("int4", "bf16", 32), ("fp16", "fp16", 0), ("fp32", "fp32", 0),
            ("int8", "fp16", 0),
        )
        for tokens in (1, 128, 4096)
    ]
    more = [Cell(4096, 128), Cell(32, 128, "int8"), Cell(4096, 128, routing="skewed")]
    return list(dict.fromkeys((*goals, *skewed, *more[:1], *grid, *more[1:], *types)))


def routes(cell: Cell, generator: torch.Generator) -> Tensor:
    """Return an expert for each token, int32 on the host."""
    if cell.routing == "uniform":
        return torch.randint(cell.experts, (cell.tokens,), generator=generator, dtype=torch.int32)
    weights = torch.ones(cell.experts)
    weights[0] = 0  # an expert that gets nothing
    weights[1] = _BUSY / (1 - _BUSY) * (weights.sum() - 1)
    chosen = torch.multinomial(weights, cell.tokens, replacement=True, generator=generator)
    return chosen.to(torch.int32)


@dataclass
class Call:
    """One call's data on the device."""

    experts: Experts
    x: Tensor  # [T, D]
    expert: Tensor  # int32 [T]
    gate: Tensor  # [T]
    y: Tensor  # float32 [T, D]
    chosen: Tensor  # `expert` on the host


class Stock:
    """Weights of one format: enough layers that a round through them leaves the cache."""

    def __init__(self, experts: int, form: Precision, cache: int, device: str):
        shapes = (experts, D_FF, D_MODEL), (experts, D_MODEL, D_FF)
        self.layers = [Experts(*(random_stack(s, form, 1, device) for s in shapes))]
        self.expert_bytes = self.layers[0].wi.bytes_each + self.layers[0].wo.bytes_each
        count = max(2, math.ceil(ROTATION * cache / (experts * self.expert_bytes)))
        self.layers += [
            Experts(*(random_stack(s, form, seed, device) for s in shapes))
            for seed in range(2, count + 1)
        ]


class Round:
    """Calls that together touch more than the cache holds.

    Attributes:
        moved: bytes of device memory that one call has to read and write, on average.
    """

    def __init__(self, cell: Cell, stock: Stock, cache: int, device: str):
        self.cell = cell
        generator = torch.Generator().manual_seed(cell.tokens * 1000 + cell.experts)
        touched = min(cell.tokens, cell.experts) * stock.expert_bytes
        count = min(_MOST_CALLS, max(4, math.ceil(ROTATION * cache / touched)))
        self.calls = []
        distinct = 0
        for number in range(count):
            layer, turn = number % len(stock.layers), number // len(stock.layers)
            chosen = routes(cell, generator)
            if cell.tokens == 1:  # no expert twice
                chosen = torch.tensor([turn % cell.experts], dtype=torch.int32)
            distinct += len(chosen.unique())
            self.calls.append(_call(cell, stock.layers[layer], chosen, number, device))
        values = cell.tokens * D_MODEL * (FLOATS[cell.x].itemsize + 4)
        self.moved = distinct / count * stock.expert_bytes + values

    def error(self, number: int) -> float:
        """Compare y of a call with float64 on some tokens; NaN where anything is not finite."""
        call = self.calls[number]
        some = torch.linspace(0, self.cell.tokens - 1, min(_CHECKED, self.cell.tokens)).long()
        some = some.to(call.x.device)
        exact = torch.empty(len(some), D_MODEL, dtype=torch.float64, device=call.x.device)
        TorchOps(torch.float64).moe(
            call.x[some], call.expert[some], call.gate[some], call.experts, exact
        )
        if not bool(torch.isfinite(call.y).all()):
            return math.nan
        return float((call.y[some] - exact).norm() / exact.norm())

    def poison(self) -> None:
        """Fill every output with NaN."""
        for call in self.calls:
            call.y.fill_(math.nan)


def _call(cell: Cell, layer: Experts, chosen: Tensor, number: int, device: str) -> Call:
    generator = torch.Generator(device).manual_seed(number + 100)
    x = torch.empty(cell.tokens, D_MODEL, device=device).normal_(generator=generator)
    gate = torch.rand(cell.tokens, generator=generator, device=device) / 2 + 0.5
    return Call(
        layer, x.to(FLOATS[cell.x]), chosen.to(device), gate, torch.empty_like(x), chosen
    )
