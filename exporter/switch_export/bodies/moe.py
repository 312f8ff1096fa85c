"""Bodies of SwitchMoE: which of them a file has, and what it computes.

    kind     for
    gather   few tokens, fp32
    slots    many tokens, fp32
    either   both, chosen by the number of tokens
    cpu      `either` with ONNX Runtime's own operator for few tokens
    loop     any number, where an expert has to be decoded: one expert after another
"""

from switch_export.bodies.text import Node, activate, flat, product, unflat
from switch_export.config import SwitchConfig
from switch_export.quantize import Precision

#: Activations that com.microsoft.MoE computes as transformers does. Its gated ones are
#: others: SwiGLU with halves interleaved, or a third stack of weights.
_CONTRIB_ACTIVATIONS = {"relu": "relu"}

# Few tokens: gather each token's expert and multiply.
#
#   wi ─► Gather(expert) ─► [T, F, D] @ x [T, D, 1] ─► act ─► [T, F, 1] ─┐
#   wo ─► Gather(expert) ─► [T, D, F] ──────────────────────────────── @ ┴─► [T, D]
_GATHER = """
    column = Unsqueeze(rows, minus_one)
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
    depth = Shape <start = 1, end = 2> (rows)
    total_and_one = Add(total, one)
    padded_shape = Concat <axis = 0> (total_and_one, depth)
    padded = ConstantOfShape(padded_shape)
    place_column = Unsqueeze(place, minus_one)
    placed = ScatterND(padded, place_column, rows)
    total_vector = Unsqueeze(total, zero)
    slotted = Slice(placed, zero, total_vector, zero)
    slots_vector = Unsqueeze(slots, zero)
    slotted_shape = Concat <axis = 0> (stack, slots_vector, depth)
    by_expert = Reshape(slotted, slotted_shape)
    columns = Transpose <perm = [0, 2, 1]> (by_expert)
    hidden = MatMul(wi, columns)
    {activate}
    answer = MatMul(wo, active)
    answer_rows = Transpose <perm = [0, 2, 1]> (answer)
    flat_shape = Concat <axis = 0> (total_vector, depth)
    flat = Reshape(answer_rows, flat_shape)
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
    > (rows, logits, wi, "", wo)
"""

_BRANCH = """
    tokens = Shape <start = 0, end = 1> (rows)
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

# One expert after another, those without tokens left out: an expert is gathered, then decoded.
_LOOP = """
    distinct = Unique <sorted = 1> (choice)
    is_expert = GreaterOrEqual(distinct, zero_scalar)
    used = Compress(distinct, is_expert)
    used_size = Shape(used)
    turns = Squeeze(used_size, zero)
    size = Shape(rows)
    empty = ConstantOfShape(size)
    output = Loop <body = one_expert (int64 turn, bool go, float[loop_t, loop_d] so_far)
        => (bool go_on, float[loop_t, loop_d] with_expert)
    {{
        go_on = Identity(go)
        number = Gather <axis = 0> (used, turn)
        mine = Equal(choice, number)
        found = NonZero(mine)
        places = Squeeze(found, zero)
        tokens = Gather <axis = 0> (rows, places)
        {scales}
        wi_one = Gather <axis = 0> (wi, number)
        {first}
        {activate}
        wo_one = Gather <axis = 0> (wo, number)
        {second}
        place_column = Unsqueeze(places, minus_one)
        with_expert = ScatterND(so_far, place_column, answer)
    }}> (turns, "", empty)
"""
_LOOP_SCALES = """
        wi_scale_one = Gather <axis = 0> (wi_scale, number)
        wo_scale_one = Gather <axis = 0> (wo_scale, number)
"""

_BODY = """
    {rows}
    flat_expert = Reshape(expert, minus_one)
    choice = Cast <to = 7> (flat_expert)
    kept = GreaterOrEqual(choice, zero_scalar)
    index = Max(choice, zero_scalar)
    {compute}
    flat_gate = Reshape(gate, minus_one)
    gate_column = Unsqueeze(flat_gate, minus_one)
    kept_column = Unsqueeze(kept, minus_one)
    {dropped}
    {shaped}
"""

_DROPPED = {
    # A select, not a product with 0: 0 * inf is not 0.
    "zero": """
    scaled = Mul(output, gate_column)
    selected = Where(kept_column, scaled, float_zero)""",
    "pass": """
    answered = Where(kept_column, output, rows)
    selected = Mul(answered, gate_column)""",
}


def body_kind(target: str, config: SwitchConfig, precision: Precision, few_tokens: bool) -> str:
    """Choose a body.

    Args:
        target: `onnx` allows standard operators only.
        few_tokens: whether the graph mostly sees few tokens, as the decoder does.
    """
    if precision.name != "fp32":
        return "loop"
    if target == "cpu" and config.activation in _CONTRIB_ACTIVATIONS and not config.is_gated:
        return "cpu"
    return "either" if few_tokens else "slots"


def experts(node: Node) -> str:
    """Each token's expert, then gate and dropping."""
    compute = {
        "gather": lambda: _fill(_GATHER, node, "output"),
        "slots": lambda: _fill(_SLOTS, node, "output"),
        "either": lambda: _branch(_GATHER_PAYS, _GATHER, node),
        "cpu": lambda: _branch(_CONTRIB_PAYS, _CONTRIB, node),
        "loop": lambda: _loop(node),
    }[node.form.experts]()
    return _BODY.format(
        rows=flat("x", "rows"), compute=compute, shaped=unflat("selected", "x", "y"),
        dropped=_DROPPED[node.attributes["dropped"]],
    )


def _fill(text: str, node: Node, result: str) -> str:
    return text.format(
        activate=activate(node.attributes, axis=1), result=result,  # [T, F, 1], [E, F, slots]
        contrib_activation=_CONTRIB_ACTIVATIONS.get(node.attributes["activation"]),
    )


def _branch(rule: str, few: str, node: Node) -> str:
    return _BRANCH.format(
        rule=rule, few=_fill(few, node, "few_output"), many=_fill(_SLOTS, node, "many_output")
    )


def _loop(node: Node) -> str:
    precision = node.form.precision
    return _LOOP.format(
        scales=_LOOP_SCALES if precision.is_quantised else "",
        first=product(precision, "tokens", "wi_one", "wi_scale_one", "hidden"),
        activate=activate(node.attributes),
        second=product(precision, "active", "wo_one", "wo_scale_one", "answer"),
    )
