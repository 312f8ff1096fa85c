"""Bodies of SwitchSelfAttention, SwitchCachedAttention and SwitchCrossAttention."""

from switch_export.bodies.text import Node

# qkv [B, T, 3 H K] -> q [B, H, T, K], k transposed [B, H, K, T], v [B, H, T, K].
_SPLIT = """
    q_rows, k_rows, v_rows = Split <axis = -1, num_outputs = 3> (qkv)
    by_head = Constant <value_ints = [0, 0, {heads}, {d_kv}]> ()
    q_heads = Reshape(q_rows, by_head)
    k_heads = Reshape(k_rows, by_head)
    v_heads = Reshape(v_rows, by_head)
    queries = Transpose <perm = [0, 2, 1, 3]> (q_heads)
    new_columns = Transpose <perm = [0, 2, 3, 1]> (k_heads)
    new_values = Transpose <perm = [0, 2, 1, 3]> (v_heads)
"""

# `relative` = place of the key - place of the query [Q, K] -> `position_bias` [H, Q, K].
_POSITIONS = """
    near = Constant <value_int = -{limit}> ()
    far = Constant <value_int = {limit}> ()
    clamped = Clip(relative, near, far)
    row = Add(clamped, far)
    bias_rows = Gather <axis = 0> (bias, row)
    position_bias = Transpose <perm = [2, 0, 1]> (bias_rows)
"""

# `mixed` [B, H, T, K] -> y [B, T, H K].
_MERGE = """
    mixed_rows = Transpose <perm = [0, 2, 1, 3]> (mixed)
    joined = Constant <value_ints = [0, 0, {inner}]> ()
    y = Reshape(mixed_rows, joined)
"""

# mask [B, S] -> `attended`, [B, 1, 1, S].
_MASK = """
    is_token = Cast <to = 9> (mask)
    middle_axes = Constant <value_ints = [1, 2]> ()
    attended = Unsqueeze(is_token, middle_axes)
"""


def _fill(text: str, node: Node) -> str:
    form = node.form
    return text.format(
        heads=form.heads, d_kv=form.d_kv, inner=form.heads * form.d_kv, limit=form.max_distance
    )


def self_attention(node: Node) -> str:
    """All tokens of a row attend to its real ones."""
    return _fill(f"""
    {_SPLIT}
    tokens = Shape <start = 1, end = 2> (qkv)
    count = Squeeze(tokens, zero)
    place = Range(zero_scalar, count, one_scalar)
    key_place = Unsqueeze(place, zero)
    query_place = Unsqueeze(place, one)
    relative = Sub(key_place, query_place)
    {_POSITIONS}
    {_MASK}
    products = MatMul(queries, new_columns)
    scores = Add(products, position_bias)
    allowed_scores = Where(attended, scores, lowest)
    attention = Softmax <axis = -1> (allowed_scores)
    mixed = MatMul(attention, new_values)
    {_MERGE}
    """, node)


def cached_attention(node: Node) -> str:
    """New tokens attend to cached ones and to each other.

    Cached and new keys are never joined: their scores are, so that no step copies the values.

        q ─┬─► @ cached keys ─► [R, H, T, C] ─┐
           └─► @ new keys ────► [R, H, T, T] ─┴► softmax ─┬► [.., :C] @ cached values ─┐
                                                          └► [.., C:] @ new values ────┴► +
    """
    return _fill(f"""
    {_SPLIT}
    new_key = Transpose <perm = [0, 2, 1, 3]> (k_heads)
    new_value = Identity(new_values)
    tokens = Shape <start = 1, end = 2> (qkv)
    count = Squeeze(tokens, zero)
    capacity = Shape <start = 2, end = 3> (key)
    capacity_count = Squeeze(capacity, zero)
    stored = Range(zero_scalar, capacity_count, one_scalar)
    steps = Range(zero_scalar, count, one_scalar)
    query = Add(steps, position)
    key_place = Concat <axis = 0> (stored, query)
    query_place = Unsqueeze(query, one)
    relative = Sub(key_place, query_place)
    {_POSITIONS}
    stored_valid = Less(stored, position)
    new_valid = GreaterOrEqual(steps, zero_scalar)
    valid = Concat <axis = 0> (stored_valid, new_valid)
    causal = LessOrEqual(key_place, query_place)
    allowed = And(valid, causal)
    old_columns = Transpose <perm = [0, 1, 3, 2]> (key)
    old_products = MatMul(queries, old_columns)
    new_products = MatMul(queries, new_columns)
    products = Concat <axis = -1> (old_products, new_products)
    scores = Add(products, position_bias)
    allowed_scores = Where(allowed, scores, lowest)
    attention = Softmax <axis = -1> (allowed_scores)
    parts = Concat <axis = 0> (capacity, tokens)
    old_attention, new_attention = Split <axis = -1> (attention, parts)
    old_mixed = MatMul(old_attention, value)
    new_mixed = MatMul(new_attention, new_values)
    mixed = Add(old_mixed, new_mixed)
    {_MERGE}
    """, node)


def cross_attention(node: Node) -> str:
    """The beams of a source ride on the query axis: [R, T, H K] -> [B, H, beams * T, K]."""
    return _fill(f"""
    batch = Shape <start = 0, end = 1> (key)
    sizes = Constant <value_ints = [-1, {{heads}}, {{d_kv}}]> ()
    by_source = Concat <axis = 0> (batch, sizes)
    query_rows = Reshape(q, by_source)
    queries = Transpose <perm = [0, 2, 1, 3]> (query_rows)
    columns = Transpose <perm = [0, 1, 3, 2]> (key)
    {_MASK}
    scores = MatMul(queries, columns)
    allowed_scores = Where(attended, scores, lowest)
    attention = Softmax <axis = -1> (allowed_scores)
    mixed = MatMul(attention, value)
    mixed_rows = Transpose <perm = [0, 2, 1, 3]> (mixed)
    q_shape = Shape(q)
    y = Reshape <allowzero = 1> (mixed_rows, q_shape)
    """, node)
