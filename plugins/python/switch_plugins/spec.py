"""The SwitchMoE operator as plain data: what a graph may hold and a kernel must accept.

The operator in words and formulas: docs/switch-moe-op.md. Nothing here imports anything heavier
than dataclasses, so that the exporter, tests and build scripts can all read it.
"""

from dataclasses import dataclass

NAME = "SwitchMoE"
DOMAIN = "ai.switch"
VERSION = 1

# Activations of the experts, by transformers' names; "swish" is another name of "silu".
ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish")

# What a dropped token (expert -1) gets: 0, or gate * x (transformers up to 4.51).
DROPPED = ("zero", "pass")


@dataclass(frozen=True)
class Tensor:
    """One input or output. The entries of `shape` are the letters of docs/switch-moe-op.md."""

    name: str
    shape: tuple[str, ...]
    types: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True)
class Attribute:
    """One attribute. `values` is empty where any value of the type is legal."""

    name: str
    type: str
    default: str | int
    values: tuple[str, ...] = ()


_ACTIVATION_TYPES = ("float32", "float16", "bfloat16")
_WEIGHT_TYPES = (*_ACTIVATION_TYPES, "int8", "uint8")  # uint8: two int4, low nibble first

INPUTS = (
    Tensor("x", ("T", "D"), _ACTIVATION_TYPES),
    Tensor("expert", ("T",), ("int32",)),
    Tensor("gate", ("T",), ("float32",)),
    Tensor("wi", ("E", "F", "D"), _WEIGHT_TYPES),
    Tensor("wo", ("E", "D", "F"), _WEIGHT_TYPES),
    Tensor("wi_scale", ("E", "F", "blocks of D"), ("float32",), optional=True),
    Tensor("wo_scale", ("E", "D", "blocks of F"), ("float32",), optional=True),
)

OUTPUTS = (Tensor("y", ("T", "D"), ("float32",)),)

ATTRIBUTES = (
    Attribute("activation", "string", "relu", ACTIVATIONS),
    Attribute("dropped", "string", "zero", DROPPED),
    Attribute("block", "int", 0),  # input values per scale; 0: one scale for each output channel
)
