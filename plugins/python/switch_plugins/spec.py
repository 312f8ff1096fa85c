"""The operators of domain `ai.switch` as data: what a graph may hold and a kernel must accept.

The operators in words and formulas: docs/operators.md. Nothing here imports anything heavier than
dataclasses, so that the exporter, tests and build scripts can all read it.
"""

from dataclasses import dataclass

DOMAIN = "ai.switch"
VERSION = 1

# Activations of the MLPs, by transformers' names; "swish" is another name of "silu".
ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish")

# What a dropped token (expert -1) gets: 0, or gate * x (transformers up to 4.51).
DROPPED = ("zero", "pass")

# Precision -> type of the weights. int4 is two codes a byte, the low four bits first.
WEIGHT_TYPES = {
    "fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "int4": "uint8",
}
# These have scales, and their products quantise each token to int8.
QUANTISED = ("int8", "int4")


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        shape: letters of docs/operators.md and expressions of them; "..." is any leading axes.
        types: what it may be; a weight is any of WEIGHT_TYPES.
    """

    name: str
    shape: tuple[str, ...]
    types: tuple[str, ...] = ("float32",)
    optional: bool = False


@dataclass(frozen=True)
class Attribute:
    """One attribute. `values` is empty where any value of the type is legal."""

    name: str
    type: str
    default: str | int | float
    values: tuple[str | int, ...] = ()


@dataclass(frozen=True)
class Operator:
    """One operator: its tensors in order, without the scales of quantised weights."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: tuple[Attribute, ...] = ()

    def scales(self) -> tuple[Tensor, ...]:
        """The inputs that follow `inputs` where the weights are quantised: one for each weight."""
        return tuple(
            Tensor(f"{tensor.name}_scale".removeprefix("weight_"), (*tensor.shape[:-1], "blocks"))
            for tensor in self.inputs if is_weight(tensor)
        )


def is_weight(tensor: Tensor) -> bool:
    """Whether an input's type is the precision of the file."""
    return tensor.types == _WEIGHT


_WEIGHT = tuple(WEIGHT_TYPES.values())
_ACTIVATION = Attribute("activation", "string", "relu", ACTIVATIONS)
_GATED = Attribute("gated", "int", 0, (0, 1))  # 1: wi has two rows for each hidden value
_BLOCK = Attribute("block", "int", 0)  # inputs that share a scale; 0: one scale for each output
_EPSILON = Attribute("epsilon", "float", 1e-6)
_TOKENS, _BATCH, _CACHE = ("...", "D"), ("B", "T", "D"), ("R", "H", "C", "K")
_CROSS, _NEW, _BIAS = ("B", "H", "S", "K"), ("R", "H", "T", "K"), ("2M+1", "H")
_MASK = Tensor("mask", ("B", "S"), ("int64",))

_OPERATORS = (
    Operator(
        "SwitchEmbedding",
        (Tensor("ids", ("B", "T"), ("int64",)), Tensor("weight", ("V", "D"), _WEIGHT)),
        (Tensor("y", _BATCH),),
        (_BLOCK,),
    ),
    Operator(
        "SwitchLinear",
        (Tensor("x", ("...", "I")), Tensor("weight", ("O", "I"), _WEIGHT)),
        (Tensor("y", ("...", "O")),),
        (_BLOCK,),
    ),
    Operator(
        "SwitchMLP",
        (
            Tensor("x", _TOKENS), Tensor("wi", ("G", "D"), _WEIGHT),
            Tensor("wo", ("D", "F"), _WEIGHT),
        ),
        (Tensor("y", _TOKENS),),
        (_ACTIVATION, _GATED, _BLOCK),
    ),
    Operator(
        "SwitchMoE",
        (
            Tensor("x", _TOKENS), Tensor("expert", ("...",), ("int32",)), Tensor("gate", ("...",)),
            Tensor("wi", ("E", "G", "D"), _WEIGHT), Tensor("wo", ("E", "D", "F"), _WEIGHT),
        ),
        (Tensor("y", _TOKENS),),
        (_ACTIVATION, _GATED, Attribute("dropped", "string", "zero", DROPPED), _BLOCK),
    ),
    Operator(
        "SwitchNorm",
        (Tensor("x", _TOKENS), Tensor("delta", _TOKENS), Tensor("weight", ("D",))),
        (Tensor("sum", _TOKENS, optional=True), Tensor("normed", _TOKENS)),
        (_EPSILON,),
    ),
    Operator(
        "SwitchRouter",
        (
            Tensor("x", _BATCH), Tensor("delta", _BATCH), Tensor("weight", ("D",)),
            Tensor("classifier", ("E", "D")), Tensor("bias", ("E",), optional=True),
        ),
        (
            Tensor("sum", _BATCH), Tensor("normed", _BATCH),
            Tensor("expert", ("B", "T"), ("int32",)), Tensor("gate", ("B", "T")),
        ),
        (_EPSILON, Attribute("capacity", "int", -1)),  # tokens per expert and row; -1: any number
    ),
    Operator(
        "SwitchSelfAttention",
        (Tensor("qkv", ("B", "S", "3HK")), _MASK, Tensor("bias", _BIAS)),
        (Tensor("y", ("B", "S", "HK")),),
    ),
    Operator(
        "SwitchKeyValue",
        (Tensor("x", ("B", "S", "D")), Tensor("weight", ("2HK", "D"), _WEIGHT)),
        (Tensor("key", _CROSS), Tensor("value", _CROSS)),
        (Attribute("heads", "int", 1), _BLOCK),
    ),
    Operator(
        "SwitchCachedAttention",
        (
            Tensor("qkv", ("R", "T", "3HK")), Tensor("key", _CACHE), Tensor("value", _CACHE),
            Tensor("position", (), ("int64",)), Tensor("bias", _BIAS),
        ),
        (Tensor("y", ("R", "T", "HK")), Tensor("new_key", _NEW), Tensor("new_value", _NEW)),
    ),
    Operator(
        "SwitchCrossAttention",
        (Tensor("q", ("R", "T", "HK")), Tensor("key", _CROSS), Tensor("value", _CROSS), _MASK),
        (Tensor("y", ("R", "T", "HK")),),
    ),
)

OPERATORS = {operator.name: operator for operator in _OPERATORS}
