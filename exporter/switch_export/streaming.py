"""Run the exporter's own modules with weights that come and go, one tensor at a time.

Verification needs the PyTorch model with the checkpoint's weights, but not in memory: a module's
parameters are read when it is called and let go when it returns.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from switch_export.moe.op import Experts
from switch_export.plan import BUCKETS, GraphPlan

if TYPE_CHECKING:
    from switch_export.weights import Weight


def attach(plan: GraphPlan, weights: "dict[str, Weight]") -> nn.Module:
    """Make the module of `plan` runnable on the checkpoint's weights; gives the module.

    A weight arrives as the float32 that its encoding in the plan's precision stands for.
    """

    def read(parameter: str) -> Tensor | None:
        if parameter == BUCKETS:
            return plan.buckets
        stored = plan.names[parameter]
        if stored.form == "scale":
            return None  # the weight has been decoded
        if stored.form == "exact":
            return weights[stored.weights[0]].load()
        return torch.cat([_part(plan, weights[name], 0) for name in stored.weights])

    for path, module in plan.module.named_modules():
        if isinstance(module, Experts):
            module.load_expert = _expert_reader(plan, weights, path)
            for name, _ in list(module.named_parameters(recurse=False)):
                module.register_parameter(name, None)
        elif any(True for _ in module.parameters(recurse=False)):
            _stream(module, path, read)
    return plan.module


def _part(plan: GraphPlan, weight: "Weight", index: int) -> Tensor:
    return plan.precision.round_trip(weight.load_part(index), weight.parts[index].name)


def _expert_reader(
    plan: GraphPlan, weights: "dict[str, Weight]", path: str
) -> Callable[[int], tuple[Tensor, Tensor]]:
    wi, wo = (weights[plan.names[f"{path}.{part}"].weights[0]] for part in ("wi", "wo"))
    return lambda index: (_part(plan, wi, index), _part(plan, wo, index))


def _stream(module: nn.Module, path: str, read: Callable[[str], Tensor | None]) -> None:
    parameters = [name for name, _ in module.named_parameters(recurse=False)]
    buffers = [name for name, _ in module.named_buffers(recurse=False)]

    def arrive(module: nn.Module, _arguments) -> None:
        for name in parameters:
            value = read(f"{path}.{name}")
            if value is not None:
                value = nn.Parameter(value, requires_grad=False)
            module._parameters[name] = value
        for name in buffers:
            module._buffers[name] = read(f"{path}.{name}")

    def leave(module: nn.Module, _arguments, _output) -> None:
        for name in parameters:
            module._parameters[name] = None
        for name in buffers:
            module._buffers[name] = None

    module.register_forward_pre_hook(arrive)
    module.register_forward_hook(leave)
