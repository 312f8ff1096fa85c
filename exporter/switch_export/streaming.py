"""Run the exporter's own modules with weights that come and go, one tensor at a time.

Verification needs the PyTorch model with the checkpoint's weights, but not in memory: a module's
parameters are read when it is called and let go when it returns.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from switch_export.graph import BUCKETS, GraphPlan
from switch_export.moe.op import Experts

if TYPE_CHECKING:
    from switch_export.weights import Weight


def attach(plan: GraphPlan, weights: "dict[str, Weight]") -> nn.Module:
    """Make the module of `plan` runnable on the checkpoint's weights; gives the module."""

    def read(parameter: str) -> Tensor:
        if parameter == BUCKETS:
            return plan.buckets
        stored = plan.names[parameter]
        tensor = weights[stored.name].load()
        return tensor.T if stored.transposed else tensor

    for path, module in plan.module.named_modules():
        if isinstance(module, Experts):
            module.load_expert = _expert_reader(plan, weights, path)
            module.wi = module.wo = None
        elif any(True for _ in module.parameters(recurse=False)):
            _stream(module, path, read)
    return plan.module


def _expert_reader(
    plan: GraphPlan, weights: "dict[str, Weight]", path: str
) -> Callable[[int], tuple[Tensor, Tensor]]:
    wi, wo = (weights[plan.names[f"{path}.{part}"].name] for part in ("wi", "wo"))
    return lambda index: (wi.load_part(index), wo.load_part(index))


def _stream(module: nn.Module, path: str, read: Callable[[str], Tensor]) -> None:
    parameters = [name for name, _ in module.named_parameters(recurse=False)]
    buffers = [name for name, _ in module.named_buffers(recurse=False)]

    def arrive(module: nn.Module, _arguments) -> None:
        for name in parameters:
            module._parameters[name] = nn.Parameter(read(f"{path}.{name}"), requires_grad=False)
        for name in buffers:
            module._buffers[name] = read(f"{path}.{name}")

    def leave(module: nn.Module, _arguments, _output) -> None:
        for name in parameters:
            module._parameters[name] = None
        for name in buffers:
            module._buffers[name] = None

    module.register_forward_pre_hook(arrive)
    module.register_forward_hook(leave)
