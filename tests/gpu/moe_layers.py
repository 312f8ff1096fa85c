"""One SwitchMoE call on random values, and its comparison with float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

from switch_export.quantize import Precision
from switch_gpu_bench.ops import Experts, Mlp
from switch_gpu_bench.packed import FLOATS, random_stack
from switch_gpu_bench.timing import DEVICE
from switch_gpu_bench.torch_ops import TorchOps

# Largest |out - reference| / |reference|, norms over the whole output. Hidden values are rounded in
# the reference too: what remains is a last bit that fell to the other side, and with int8 values a
# whole step of one value.
EXACT, HALF, QUANTISED = 1e-5, 1e-3, 5e-3


@dataclass(frozen=True)
class Size:
    """Of a layer and a batch."""

    tokens: int
    experts: int = 4
    d_model: int = 96
    d_ff: int = 160


@dataclass
class Layer:
    """A call's tensors."""

    x: Tensor
    expert: Tensor | None
    gate: Tensor | None
    experts: Experts
    tolerance: float

    def expected(self, rows: Tensor | None = None) -> Tensor:
        """Return y in float64, of all tokens or of some."""
        picked = [
            part if part is None or rows is None else part[rows]
            for part in (self.x, self.expert, self.gate)
        ]
        y = torch.empty(picked[0].shape, dtype=torch.float64, device=DEVICE)
        TorchOps(torch.float64).moe(*picked, self.experts, y)
        return y

    def run(self, ops) -> Tensor:
        """Return y of the kernels, which began as NaN."""
        y = torch.full(self.x.shape, float("nan"), device=DEVICE)
        ops.moe(self.x, self.expert, self.gate, self.experts, y)
        return y


BF16, RELU = Precision("bf16"), Mlp()


def layer(
    size: Size, x: str = "bf16", weight: Precision = BF16, mlp: Mlp = RELU, seed: int = 1
) -> Layer:
    """Make a layer with uniform routes."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    rows = 2 * size.d_ff if mlp.is_gated else size.d_ff
    wi = random_stack((size.experts, rows, size.d_model), weight, seed, DEVICE)
    wo = random_stack((size.experts, size.d_model, size.d_ff), weight, seed + 1, DEVICE)
    values = torch.randn(size.tokens, size.d_model, generator=generator, device=DEVICE)
    expert = torch.randint(size.experts, (size.tokens,), generator=generator, device=DEVICE)
    gate = torch.rand(size.tokens, generator=generator, device=DEVICE) / 2 + 0.5
    tolerance = QUANTISED if weight.is_quantised else EXACT if x == "fp32" else HALF
    return Layer(
        values.to(FLOATS[x]), expert.to(torch.int32), gate, Experts(wi, wo, mlp), tolerance
    )


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare by norms; NaN never passes."""
    error = float((found.double() - expected.double()).norm())
    norm = float(expected.double().norm())
    assert error <= tolerance * norm, f"off by {error:.2e} of {norm:.2e}, limit {tolerance:.0e}"
