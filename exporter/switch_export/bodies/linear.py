"""Bodies of SwitchEmbedding, SwitchLinear, SwitchMLP and SwitchKeyValue."""

from switch_export.bodies.text import Node, activate, decode, flat, product, unflat


def embedding(node: Node) -> str:
    """Look up rows, then decode those."""
    precision = node.form.precision
    if precision.name == "fp32":
        return "y = Gather <axis = 0> (weight, ids)"
    if not precision.is_quantised:
        return "rows = Gather <axis = 0> (weight, ids)\n" + decode(precision, "rows", "", "y")
    return f"""
    flat_ids = Reshape(ids, minus_one)
    rows = Gather <axis = 0> (weight, flat_ids)
    row_scales = Gather <axis = 0> (scale, flat_ids)
    {decode(precision, "rows", "row_scales", "decoded")}
    ids_column = Unsqueeze(ids, minus_one)
    {unflat("decoded", "ids_column", "y")}
    """


def linear(node: Node) -> str:
    """One product."""
    return f"""
    {flat("x", "rows")}
    {product(node.form.precision, "rows", "weight", "scale", "answer")}
    {unflat("answer", "x", "y")}
    """


def mlp(node: Node) -> str:
    """Two products with the activation between."""
    precision = node.form.precision
    return f"""
    {flat("x", "rows")}
    {product(precision, "rows", "wi", "wi_scale", "hidden")}
    {activate(node.attributes)}
    {product(precision, "active", "wo", "wo_scale", "answer")}
    {unflat("answer", "x", "y")}
    """


def key_value(node: Node) -> str:
    """One product [N, 2 H K], its halves split into heads [B, H, S, K]."""
    heads, d_kv = node.form.heads, node.form.d_kv
    return f"""
    {flat("x", "rows")}
    {product(node.form.precision, "rows", "weight", "scale", "answer")}
    {unflat("answer", "x", "joined")}
    keys, values = Split <axis = -1, num_outputs = 2> (joined)
    by_head = Constant <value_ints = [0, 0, {heads}, {d_kv}]> ()
    key_rows = Reshape(keys, by_head)
    key = Transpose <perm = [0, 2, 1, 3]> (key_rows)
    value_rows = Reshape(values, by_head)
    value = Transpose <perm = [0, 2, 1, 3]> (value_rows)
    """
