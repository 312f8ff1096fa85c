"""What the modules of both graphs share: nodes of domain `ai.switch`, and weights of a precision.

Every module has two faces. Under torch.export it emits its node, with parameters of the stored
types. Run eagerly it computes the formula of docs/operators.md from float32 parameters, which are
what the stored ones stand for.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from switch_export.model.names import scale_name
from switch_export.quantize import Precision
from switch_plugins import spec

#: The least peak of a token that is quantised, so that a token of zeros divides by something.
TINY = 1e-30


def tracing() -> bool:
    """Whether a module is to emit its node."""
    return torch.compiler.is_exporting()


def node(name: str, inputs: Iterable[Tensor | None], outputs: Iterable[tuple], **attributes):
    """Emit one node.

    Args:
        outputs: dtype and shape of each.

    Returns:
        its outputs; one alone is not in a tuple.
    """
    types, shapes = zip(*outputs, strict=True)
    made = torch.onnx.ops.symbolic_multi_out(
        f"{spec.DOMAIN}::{name}", tuple(inputs), attributes,
        dtypes=types, shapes=shapes, version=spec.VERSION,
    )
    return made[0] if len(made) == 1 else tuple(made)


def add_weight(module: nn.Module, name: str, shape: tuple[int, ...], precision: Precision) -> None:
    """Give `module` a weight as it is stored, and its scale beside it where it has one."""
    values = torch.empty(precision.values_shape(shape), dtype=getattr(torch, precision.type))
    module.register_parameter(name, nn.Parameter(values, requires_grad=False))
    if precision.is_quantised:
        scale = torch.empty(precision.scale_shape(shape))
        module.register_parameter(scale_name(name), nn.Parameter(scale, requires_grad=False))


def weights(module: nn.Module, *names: str) -> list[Tensor]:
    """The inputs that stand for weights of `module`: all values, then all scales."""
    parameters = dict(module.named_parameters(recurse=False))
    scales = (scale_name(name) for name in names)
    return [parameters[name] for name in (*names, *scales) if name in parameters]


def product(x: Tensor, weight: Tensor, precision: Precision) -> Tensor:
    """x [..., I] @ weight [O, I]^T; each token is rounded to int8 where weights are quantised."""
    if not (precision.is_quantised and precision.rounds_tokens):
        return x @ weight.T
    peak = x.abs().amax(-1, keepdim=True).clamp(min=TINY)             # [..., 1]
    return (torch.round(x * (127 / peak)) @ weight.T) * (peak / 127)
