"""ONNX functions as text: their frame, their constants, and products with a weight."""

import re
from dataclasses import dataclass

import onnx
from onnx import parser

from switch_export.quantize import Precision
from switch_plugins import spec

OPSET = 20
CONTRIB_DOMAIN = "com.microsoft"
LOWEST = float.fromhex("-0x1.fffffep+127")  # of float32
TINY = 1e-30

ACTIVATE = {
    "relu": "{y} = Relu({x})",
    "gelu": "{y} = Gelu({x})",
    "gelu_new": '{y} = Gelu <approximate = "tanh"> ({x})',
    "gelu_pytorch_tanh": '{y} = Gelu <approximate = "tanh"> ({x})',
    "silu": "{y}_gate = Sigmoid({x})\n{y} = Mul({x}, {y}_gate)",
    "swish": "{y}_gate = Sigmoid({x})\n{y} = Mul({x}, {y}_gate)",
}

# The first half of the hidden values is activated, and the second multiplies it.
_GATED = """
    {x}_first, {x}_second = Split <axis = {axis}, num_outputs = 2> ({x})
    {activate}
    {y} = Mul({y}_first, {x}_second)
"""

# A function gets those of these that its text mentions.
_CONSTANTS = {
    "zero": "Constant <value_ints = [0]> ()",
    "one": "Constant <value_ints = [1]> ()",
    "two": "Constant <value_ints = [2]> ()",
    "three": "Constant <value_ints = [3]> ()",
    "minus_one": "Constant <value_ints = [-1]> ()",
    "zero_scalar": "Constant <value_int = 0> ()",
    "one_scalar": "Constant <value_int = 1> ()",
    "float_zero": "Constant <value_float = 0.0> ()",
    "two_float": "Constant <value_float = 2.0> ()",
    "largest_code": "Constant <value_float = 127.0> ()",
    "least_peak": f"Constant <value_float = {TINY!r}> ()",
    "lowest": f"Constant <value_float = {LOWEST!r}> ()",
    "nibble": "Constant <value = uint8 {15}> ()",
    "nibble_bits": "Constant <value = uint8 {4}> ()",
    "middle_code": "Constant <value_float = 8.0> ()",
}


@dataclass(frozen=True)
class Form:
    """What all bodies of one file are fixed to.

    Attributes:
        heads, d_kv, max_distance: of the attentions and their position bias.
        experts: kind of SwitchMoE's body, see `moe`.
    """

    precision: Precision
    heads: int
    d_kv: int
    max_distance: int
    experts: str = "slots"


@dataclass(frozen=True)
class Node:
    """A node to write the function of: its operator, attributes and number of inputs."""

    operator: str
    attributes: dict
    inputs: int
    form: Form

    def input_names(self) -> list[str]:
        """Names of the inputs that the node has."""
        operator = spec.OPERATORS[self.operator]
        scales = operator.scales() if self.form.precision.is_quantised else ()
        names = [tensor.name for tensor in operator.inputs]
        optional = len(names) + len(scales) - self.inputs
        return names[: len(names) - optional] + [tensor.name for tensor in scales]


def parse(node: Node, body: str) -> onnx.FunctionProto:
    """The function of `node`, from the lines that compute its outputs."""
    operator = spec.OPERATORS[node.operator]
    constants = [
        f"{name} = {value}" for name, value in _CONSTANTS.items()
        if re.search(rf"\b{name}\b", body)
    ]
    contrib = f', "{CONTRIB_DOMAIN}" : 1' if CONTRIB_DOMAIN in body else ""
    attributes = f"<{', '.join(node.attributes)}>" if node.attributes else ""
    outputs = ", ".join(tensor.name for tensor in operator.outputs)
    lines = "\n".join([*constants, body])
    return parser.parse_function(
        f'<domain: "{spec.DOMAIN}", opset_import: ["" : {OPSET}{contrib}]>\n'
        f"{node.operator} {attributes} ({', '.join(node.input_names())}) => ({outputs})\n"
        f"{{\n{lines}\n}}"
    )


def activate(attributes: dict, axis: int = -1) -> str:
    """active = what `hidden` becomes before its product with wo, as the node's attributes say.

    Args:
        axis: of the hidden values, F of them or, where they are gated, 2 F.
    """
    text = ACTIVATE[attributes["activation"]]
    if not attributes.get("gated", 0):
        return text.format(x="hidden", y="active")
    first = text.format(x="hidden_first", y="active_first")
    return _GATED.format(x="hidden", y="active", axis=axis, activate=first)


def flat(x: str, y: str) -> str:
    """y [N, D] = x [..., D]."""
    return f"""
    {y}_width = Shape <start = -1> ({x})
    {y}_shape = Concat <axis = 0> (minus_one, {y}_width)
    {y} = Reshape({x}, {y}_shape)
    """


def unflat(x: str, like: str, y: str) -> str:
    """y [..., O] = x [N, O], with the leading axes of `like` [..., D]."""
    return f"""
    {y}_leading = Shape <start = 0, end = -1> ({like})
    {y}_width = Shape <start = 1, end = 2> ({x})
    {y}_shape = Concat <axis = 0> ({y}_leading, {y}_width)
    {y} = Reshape <allowzero = 1> ({x}, {y}_shape)
    """


def decode(precision: Precision, values: str, scale: str, y: str) -> str:
    """y float32 [O, I] = what stored values [O, I] and their scales stand for."""
    if not precision.is_quantised:
        return f"{y} = Cast <to = 1> ({values})"
    text = _codes(precision, values, f"{y}_codes")
    if not precision.block:
        return text + f"""
    {y}_scale = Unsqueeze({scale}, minus_one)
    {y} = Mul({y}_codes, {y}_scale)
    """
    # Each scale is repeated for its block; the last block of a row may be shorter.
    return text + f"""
    {y}_block = Constant <value_ints = [{precision.block}]> ()
    {y}_three = Constant <value_ints = [1, 1, {precision.block}]> ()
    {y}_column = Unsqueeze({scale}, minus_one)
    {y}_repeated = Expand({y}_column, {y}_three)
    {y}_blocks = Shape <start = 1, end = 2> ({scale})
    {y}_padded = Mul({y}_blocks, {y}_block)
    {y}_wide = Concat <axis = 0> (minus_one, {y}_padded)
    {y}_joined = Reshape({y}_repeated, {y}_wide)
    {y}_inputs = Shape <start = 1, end = 2> ({y}_codes)
    {y}_scale = Slice({y}_joined, zero, {y}_inputs, one)
    {y} = Mul({y}_codes, {y}_scale)
    """


def _codes(precision: Precision, values: str, y: str) -> str:
    """y float32 [O, I] = the numbers that are multiplied by a scale."""
    if precision.name == "int8":
        return f"{y} = Cast <to = 1> ({values})"
    return f"""
    {y}_low = BitwiseAnd({values}, nibble)
    {y}_high = BitShift <direction = "RIGHT"> ({values}, nibble_bits)
    {y}_low_column = Unsqueeze({y}_low, minus_one)
    {y}_high_column = Unsqueeze({y}_high, minus_one)
    {y}_pairs = Concat <axis = -1> ({y}_low_column, {y}_high_column)
    {y}_bytes = Shape <start = 1, end = 2> ({values})
    {y}_count = Mul({y}_bytes, two)
    {y}_shape = Concat <axis = 0> (minus_one, {y}_count)
    {y}_unsigned = Reshape({y}_pairs, {y}_shape)
    {y}_float = Cast <to = 1> ({y}_unsigned)
    {y} = Sub({y}_float, middle_code)
    """


def product(precision: Precision, x: str, weight: str, scale: str, y: str) -> str:
    """y [N, O] = x [N, I] @ weight [O, I]^T; a Transpose would copy the weight, Gemm does not.

    With quantised weights each row of x is rounded to int8 first.
    """
    if precision.name == "fp32":
        return f"{y} = Gemm <transB = 1> ({x}, {weight})"
    if not precision.is_quantised:
        return decode(precision, weight, scale, f"{y}_weight") + f"""
    {y} = Gemm <transB = 1> ({x}, {y}_weight)
    """
    quantise = f"""
    {y}_magnitude = Abs({x})
    {y}_largest = ReduceMax <keepdims = 1> ({y}_magnitude, minus_one)
    {y}_peak = Max({y}_largest, least_peak)
    {y}_factor = Div(largest_code, {y}_peak)
    {y}_exact = Mul({x}, {y}_factor)
    {y}_rounded = Round({y}_exact)
    {y}_step = Div({y}_peak, largest_code)
    """
    if precision.block:
        multiply = decode(precision, weight, scale, f"{y}_weight") + f"""
    {y}_sum = Gemm <transB = 1> ({y}_rounded, {y}_weight)
    """
    else:  # integers are summed, and scaled once
        multiply = _codes(precision, weight, f"{y}_weight") + f"""
    {y}_integer = Gemm <transB = 1> ({y}_rounded, {y}_weight)
    {y}_sum = Mul({y}_integer, {scale})
    """
    return f"""{quantise}
    {multiply}
    {y} = Mul({y}_sum, {y}_step)
    """
