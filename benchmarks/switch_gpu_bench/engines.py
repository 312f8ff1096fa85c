"""Ours and its peers on the same data: what one call of a cell is for each of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from switch_gpu_bench.cells import D_FF, D_MODEL, Call, Cell, Round
from switch_gpu_bench.ops import Classifier, CudaOps, Norm, Routes
from switch_gpu_bench.timing import Taken, capture, synchronize, time_device, time_host
from switch_gpu_bench.torch_ops import TorchOps

Body = Callable[[], None]
OURS, ROUTED = "ours", "ours, routed"
_PEAK = 8.0  # logit of the expert that a token is made for; the others are standard normal


@dataclass(frozen=True)
class Measured:
    """One engine on one cell."""

    taken: Taken
    error: float
    how: str  # "graph", or why not


@dataclass(frozen=True)
class Engine:
    """Makes the calls of a round.

    Attributes:
        prepare: call -> a body that runs it on the current stream and writes call.y.
        is_cell: whether its results are the cell's; otherwise they are not compared.
        is_eager: timed call by call with the host's clock, as its users run it.
    """

    name: str
    prepare: Callable[[Cell, Call], Body]
    is_cell: bool = True
    is_eager: bool = False


def measure(engine: Engine, data: Round, seconds: float) -> Measured:
    """Time the calls of a round in one graph; where it cannot be captured, one after another."""
    bodies = [engine.prepare(data.cell, call) for call in data.calls]

    def all_calls() -> None:
        for body in bodies:
            body()

    if engine.is_eager:
        all_calls()
        return Measured(time_host(all_calls, 5, len(bodies)), math.nan, "eager")
    how, run = "graph", all_calls
    try:
        run = capture(all_calls)
    except RuntimeError as error:
        synchronize()
        how = f"eager: {str(error).splitlines()[0][:120]}"
    data.poison()
    run()
    synchronize()
    error = math.nan
    if engine.is_cell:
        error = max((data.error(0), data.error(len(data.calls) - 1)), key=_worse)
    return Measured(time_device(run, len(bodies), seconds), error, how)


def _worse(error: float) -> tuple[bool, float]:
    return math.isnan(error), error


def ours(ops: CudaOps | TorchOps) -> Engine:
    """SwitchMoE alone."""

    def prepare(_cell: Cell, call: Call) -> Body:
        return lambda: ops.moe(call.x, call.expert, call.gate, call.experts, call.y)

    return Engine(OURS, prepare)


def routed(ops: CudaOps | TorchOps) -> Engine:
    """Norm and router, then SwitchMoE, from a float32 residual whose routes are the call's."""

    def prepare(cell: Cell, call: Call) -> Body:
        device = call.x.device
        generator = torch.Generator(device).manual_seed(7)
        matrix = torch.empty(cell.experts, D_MODEL, device=device).normal_(generator=generator)
        matrix = torch.nn.functional.normalize(matrix)
        noise = torch.empty(cell.tokens, D_MODEL, device=device).normal_(generator=generator)
        x = (noise + _PEAK * matrix[call.expert.long()])[None].contiguous()
        norm = Norm(torch.ones(D_MODEL, device=device), 1e-6, call.x.dtype)
        result = Routes(call.x[None], call.expert.clone()[None], call.gate[None])

        def body() -> None:
            ops.router(x, norm, Classifier(matrix), result)
            ops.moe(call.x, result.expert[0], call.gate, call.experts, call.y)

        body()
        if not torch.equal(result.expert[0], call.expert):
            raise RuntimeError("the router chose other experts than those of the cell")
        return body

    return Engine(ROUTED, prepare)


def _halves(call: Call) -> tuple[Tensor, Tensor]:
    return call.experts.wi.values, call.experts.wo.values


def grouped_mm() -> Engine:
    """torch._grouped_mm: sort, product, activation, product, unsort."""

    def prepare(cell: Cell, call: Call) -> Body:
        wi, wo = _halves(call)
        numbers = torch.arange(cell.experts, device=call.x.device, dtype=torch.int32)

        def body() -> None:
            placed, order = torch.sort(call.expert, stable=True)
            ends = torch.searchsorted(placed, numbers, right=True, out_int32=True)
            hidden = torch._grouped_mm(call.x[order], wi.transpose(-2, -1), offs=ends)
            out = torch._grouped_mm(hidden.relu_(), wo.transpose(-2, -1), offs=ends)
            call.y[order] = out * call.gate[order, None]

        return body

    return Engine("torch._grouped_mm", prepare)


def dense() -> Engine:
    """cuBLAS: one MLP for all tokens, as many operations; its results are not the cell's."""

    def prepare(_cell: Cell, call: Call) -> Body:
        wi, wo = (part[int(call.chosen[0])] for part in _halves(call))
        hidden = call.x.new_empty(len(call.x), D_FF)
        out = torch.empty_like(call.x)

        def body() -> None:
            torch.mm(call.x, wi.T, out=hidden)
            hidden.relu_()
            torch.mm(hidden, wo.T, out=out)

        return body

    return Engine("dense cuBLAS", prepare, is_cell=False)


def triton_moe(presorted: bool) -> Engine:
    """Our Triton kernels in the style of vLLM's fused_moe, with or without their alignment."""
    from switch_gpu_bench import triton_moe as kernels

    def prepare(cell: Cell, call: Call) -> Body:
        wi, wo = _halves(call)
        plan = kernels.plan(cell.tokens, cell.experts)
        buffers = kernels.Buffers(cell.tokens, D_FF, plan, call.x)
        kernels.align(call.expert, cell.experts, plan, buffers)

        def body() -> None:
            if not presorted:
                kernels.align(call.expert, cell.experts, plan, buffers)
            kernels.run(call.x, call.gate, (wi, wo), call.y, (plan, buffers))

        return body

    return Engine(f"Triton fused MoE{', sorted before' if presorted else ''}", prepare)


def sparse_mlp(cell: Cell, data: Round) -> Engine:
    """transformers' SparseMLP in eager mode, over a view of the cell's first weights."""
    from transformers import SwitchTransformersConfig
    from transformers.models.switch_transformers import modeling_switch_transformers as theirs

    config = SwitchTransformersConfig(
        d_model=D_MODEL, d_ff=D_FF, num_experts=cell.experts, expert_capacity=cell.tokens,
        dropout_rate=0.0,
    )
    with torch.device("meta"):
        layer = theirs.SwitchTransformersSparseMLP(config).eval()
    wi, wo = _halves(data.calls[0])
    for index in range(cell.experts):
        expert = layer.experts[f"expert_{index}"]
        expert.wi.weight = torch.nn.Parameter(wi[index], requires_grad=False)
        expert.wo.weight = torch.nn.Parameter(wo[index], requires_grad=False)
    classifier = torch.randn(cell.experts, D_MODEL, device=wi.device) * D_MODEL**-0.5
    layer.router.classifier.weight = torch.nn.Parameter(classifier, requires_grad=False)

    def prepare(_cell: Cell, call: Call) -> Body:
        def body() -> None:
            with torch.inference_mode():
                layer(call.x[None])

        return body

    return Engine("transformers SparseMLP eager", prepare, is_cell=False, is_eager=True)
