"""The operators of domain `ai.switch` as ONNX functions, for engines without our library.

Standard operators, but for target `cpu`. A body picks experts by a run-time index before it does
anything else with a weight, and it never transposes a weight: either would let an engine copy a
whole stack to the heap. Each family of operators has a file; `text` is what they are written in.
"""

from collections.abc import Callable

import onnx

from switch_export.bodies import attention, linear, moe, norms
from switch_export.bodies.text import Form, Node, parse

_BODIES: dict[str, Callable[[Node], str]] = {
    "SwitchEmbedding": linear.embedding,
    "SwitchLinear": linear.linear,
    "SwitchMLP": linear.mlp,
    "SwitchKeyValue": linear.key_value,
    "SwitchMoE": moe.experts,
    "SwitchNorm": norms.norm,
    "SwitchRouter": norms.router,
    "SwitchSelfAttention": attention.self_attention,
    "SwitchCachedAttention": attention.cached_attention,
    "SwitchCrossAttention": attention.cross_attention,
}


def function(operator: str, attributes: dict, inputs: int, form: Form) -> onnx.FunctionProto:
    """Build the function of an operator for one file.

    Args:
        attributes: what the file's nodes of this operator carry.
        inputs: how many inputs they have: an optional one may be absent in a whole file.
    """
    node = Node(operator, attributes, inputs, form)
    return parse(node, _BODIES[operator](node))
