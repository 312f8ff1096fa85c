"""Bodies of SwitchNorm and SwitchRouter."""

from switch_export.bodies.text import Node, flat, unflat

# Pow, ReduceMean, Add, Sqrt, Div, Mul: the form that ONNX Runtime fuses into one node.
_NORM = """
    epsilon_value = Constant <value_float = {epsilon!r}> ()
    sum = Add(x, delta)
    square = Pow(sum, two_float)
    mean = ReduceMean <keepdims = 1> (square, minus_one)
    shifted = Add(mean, epsilon_value)
    root = Sqrt(shifted)
    scaled = Div(sum, root)
    normed = Mul(scaled, weight)
"""

_RANKED = """
    experts = Shape <start = 0, end = 1> (classifier)
    experts_scalar = Squeeze(experts, zero)
    all_experts = Range(zero_scalar, experts_scalar, one_scalar)
    choice_column = Unsqueeze(choice, minus_one)
    matches = Equal(choice_column, all_experts)
    chosen = Cast <to = 7> (matches)
    counts = CumSum(chosen, one_scalar)
    own_count = Mul(counts, chosen)
    rank = ReduceSum <keepdims = 0> (own_count, minus_one)
    capacity_value = Constant <value_int = {capacity}> ()
    over = Greater(rank, capacity_value)
    none = Constant <value_int = -1> ()
    kept = Where(over, none, choice)
    expert = Cast <to = 6> (kept)
"""


def norm(node: Node) -> str:
    """Residual sum, then root mean square."""
    return _NORM.format(epsilon=node.attributes["epsilon"])


def router(node: Node) -> str:
    """SwitchNorm, then the expert of every token: ranks are counted along each row."""
    capacity = node.attributes["capacity"]
    inputs = "rows, classifier, bias" if "bias" in node.input_names() else "rows, classifier"
    choose = "expert = Cast <to = 6> (choice)" if capacity < 0 else _RANKED.format(
        capacity=capacity
    )
    return f"""
    {norm(node)}
    {flat("normed", "rows")}
    scores = Gemm <transB = 1> ({inputs})
    {unflat("scores", "normed", "logits")}
    probabilities = Softmax <axis = -1> (logits)
    gate = ReduceMax <keepdims = 0> (probabilities, minus_one)
    choice = ArgMax <axis = -1, keepdims = 0> (probabilities)
    {choose}
    """
