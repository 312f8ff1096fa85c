"""The SwitchMoE operator as an ONNX function: of standard operators, but for target `cpu`.

An engine without our library inlines it; one with the library runs the kernel instead. A body
picks experts by a run-time index before it does anything else with a weight, and it never
transposes a weight stack: either would let an engine copy the whole stack to the heap.
"""

import onnx
from onnx import parser

from switch_plugins import spec

OPSET = 20
CONTRIB_DOMAIN = "com.microsoft"

_ACTIVATE = {
    "relu": "{y} = Relu({x})",
    "gelu": "{y} = Gelu({x})",
    "gelu_new": '{y} = Gelu <approximate = "tanh"> ({x})',
    "gelu_pytorch_tanh": '{y} = Gelu <approximate = "tanh"> ({x})',
    "silu": "{y}_gate = Sigmoid({x})\n{y} = Mul({x}, {y}_gate)",
    "swish": "{y}_gate = Sigmoid({x})\n{y} = Mul({x}, {y}_gate)",
}

# Few tokens: gather each token's expert and multiply.
#
#   wi ─► Gather(expert) ─► [T, F, D] @ x [T, D, 1] ─► act ─► [T, F, 1] ─┐
#   wo ─► Gather(expert) ─► [T, D, F] ──────────────────────────────── @ ┴─► [T, D]
_GATHER = """
    column = Unsqueeze(x, minus_one)
    wi_of_token = Gather <axis = 0> (wi, index)
    hidden = MatMul(wi_of_token, column)
    {activate}
    wo_of_token = Gather <axis = 0> (wo, index)
    answer = MatMul(wo_of_token, active)
    {result} = Squeeze(answer, minus_one)
"""

# Many tokens: give each expert as many slots as its busiest colleague needs.
#
#   expert ─► one-hot ─► CumSum ─► slot ─► place = expert * slots + slot (dropped: one row past all)
#   x ─► ScatterND(place) ─► [E, D, slots] ─► wi @ ─► act ─► wo @ ─► [E, D, slots] ─► Gather(place)
_SLOTS = """
    stack = Shape <start = 0, end = 1> (wi)
    experts = Squeeze(stack, zero)
    all_experts = Range(zero_scalar, experts, one_scalar)
    row = Unsqueeze(choice, minus_one)
    matches = Equal(row, all_experts)
    chosen = Cast <to = 7> (matches)
    counts = CumSum(chosen, zero_scalar)
    own_count = Mul(counts, chosen)
    queue = ReduceSum <keepdims = 0> (own_count, minus_one)
    busiest = ReduceMax <keepdims = 0> (queue)
    slots = Max(busiest, one_scalar)
    slot = Sub(queue, one_scalar)
    first_slot = Mul(index, slots)
    own_place = Add(first_slot, slot)
    total = Mul(experts, slots)
    place = Where(kept, own_place, total)
    depth = Shape <start = 1, end = 2> (x)
    total_and_one = Add(total, one)
    padded_shape = Concat <axis = 0> (total_and_one, depth)
    padded = ConstantOfShape(padded_shape)
    place_column = Unsqueeze(place, minus_one)
    placed = ScatterND(padded, place_column, x)
    total_vector = Unsqueeze(total, zero)
    slotted = Slice(placed, zero, total_vector, zero)
    slots_vector = Unsqueeze(slots, zero)
    slotted_shape = Concat <axis = 0> (stack, slots_vector, depth)
    by_expert = Reshape(slotted, slotted_shape)
    columns = Transpose <perm = [0, 2, 1]> (by_expert)
    hidden = MatMul(wi, columns)
    {activate}
    answer = MatMul(wo, active)
    rows = Transpose <perm = [0, 2, 1]> (answer)
    flat_shape = Concat <axis = 0> (total_vector, depth)
    flat = Reshape(rows, flat_shape)
    last = Sub(total, one_scalar)
    readable = Min(place, last)
    {result} = Gather <axis = 0> (flat, readable)
"""

# ONNX Runtime's own operator reads an expert in place, where Gather copies it, but it packs every
# expert it uses at each call: it pays while there are at most as many tokens as experts. It routes
# by itself, so it is told the choice as one high logit; renormalising undoes its gate.
_CONTRIB = """
    stack = Shape <start = 0, end = 1> (wi)
    experts = Squeeze(stack, zero)
    all_experts = Range(zero_scalar, experts, one_scalar)
    row = Unsqueeze(choice, minus_one)
    matches = Equal(row, all_experts)
    chosen_logit = Constant <value_float = 0.0> ()
    other_logit = Constant <value_float = -100.0> ()
    logits = Where(matches, chosen_logit, other_logit)
    {result} = com.microsoft.MoE <
        activation_type = "{contrib_activation}", k = 1, normalize_routing_weights = 1
    > (x, logits, wi, "", wo)
"""

_BRANCH = """
    tokens = Shape <start = 0, end = 1> (x)
    size = Shape <start = 0, end = 1> (wi)
    {rule}
    condition = Squeeze(few_pays, zero)
    output = If (condition) <
        then_branch = few () => (float[few_t, few_d] few_output) {{ {few} }},
        else_branch = many () => (float[many_t, many_d] many_output) {{ {many} }}
    >
"""

# A stack is read once by the slots; a gathered expert is read, written and read again.
_GATHER_PAYS = """
    cost = Mul(tokens, three)
    cheaper = LessOrEqual(cost, size)
    one_token = Equal(tokens, one)
    few_pays = Or(cheaper, one_token)
"""
_CONTRIB_PAYS = "few_pays = LessOrEqual(tokens, size)"

_FUNCTION = """
<domain: "{domain}", opset_import: ["" : {opset}{contrib_import}]>
{name} <activation, dropped> (x, expert, gate, wi, wo) => (y)
{{
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    three = Constant <value_ints = [3]> ()
    minus_one = Constant <value_ints = [-1]> ()
    zero_scalar = Constant <value_int = 0> ()
    one_scalar = Constant <value_int = 1> ()
    choice = Cast <to = 7> (expert)
    kept = GreaterOrEqual(choice, zero_scalar)
    index = Max(choice, zero_scalar)
    {compute}
    gate_column = Unsqueeze(gate, minus_one)
    kept_column = Unsqueeze(kept, minus_one)
    {dropped}
}}
"""

_DROPPED = {
    # A select, not a product with 0: 0 * inf is not 0.
    "zero": """
    scaled = Mul(output, gate_column)
    float_zero = Constant <value_float = 0.0> ()
    y = Where(kept_column, scaled, float_zero)""",
    "pass": """
    answered = Where(kept_column, output, x)
    y = Mul(answered, gate_column)""",
}


#: Activations that com.microsoft.MoE computes as transformers does.
_CONTRIB_ACTIVATIONS = {"relu": "relu"}


def body_kind(target: str, activation: str, few_tokens: bool) -> str:
    """Choose a body.

    Args:
        target: `onnx` allows standard operators only.
        few_tokens: whether the graph mostly sees few tokens, as the decoder does.
    """
    if target == "cpu" and activation in _CONTRIB_ACTIVATIONS:
        return "cpu"
    return "either" if few_tokens else "slots"


def switch_moe_function(kind: str, activation: str, dropped: str) -> onnx.FunctionProto:
    """Build the function for one file.

    Args:
        kind: `gather` (few tokens), `slots` (many) or `either` (chosen by the number of tokens);
            `cpu` is `either` with ONNX Runtime's own operator for few tokens.
        activation: a key of `model.layers.ACTIVATIONS`.
        dropped: `zero` or `pass`.
    """
    def fill(text: str, result: str) -> str:
        activate = _ACTIVATE[activation].format(x="hidden", y="active")
        contrib = _CONTRIB_ACTIVATIONS.get(activation)
        return text.format(activate=activate, result=result, contrib_activation=contrib)

    def branch(rule: str, few: str) -> str:
        many = fill(_SLOTS, "many_output")
        return _BRANCH.format(rule=rule, few=fill(few, "few_output"), many=many)

    compute = {
        "gather": lambda: fill(_GATHER, "output"),
        "slots": lambda: fill(_SLOTS, "output"),
        "either": lambda: branch(_GATHER_PAYS, _GATHER),
        "cpu": lambda: branch(_CONTRIB_PAYS, _CONTRIB),
    }[kind]()
    text = _FUNCTION.format(
        domain=spec.DOMAIN, name=spec.NAME, opset=OPSET, compute=compute,
        dropped=_DROPPED[dropped],
        contrib_import=f', "{CONTRIB_DOMAIN}" : 1' if kind == "cpu" else "",
    )
    return parser.parse_function(text)
