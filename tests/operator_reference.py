"""The operators of domain `ai.switch` in float64 NumPy, written from docs/operators.md.

Nothing of the exporter is used: weights are made in their stored types here, and decoded here.
B batch, T and S tokens, R rows, D d_model, F d_ff, E experts, H heads, K head size, C capacity.
"""

from dataclasses import dataclass

import numpy as np
import reference
from reference import ACTIVATIONS, LOWEST, softmax

#: Every precision and block that a file may have; 0 is one scale for each output.
PRECISIONS = [
    ("fp32", 0), ("bf16", 0), ("fp16", 0), ("int8", 0), ("int8", 32), ("int4", 32), ("int4", 0),
]


@dataclass(frozen=True)
class Weight:
    """A weight as a file stores it: `values` [..., O, I] (int4: two a byte) and `scale`."""

    precision: str
    block: int
    values: np.ndarray
    scale: np.ndarray | None = None

    @property
    def is_quantised(self) -> bool:
        return self.scale is not None

    def __getitem__(self, expert: int) -> "Weight":
        """One expert of a stack."""
        scale = None if self.scale is None else self.scale[expert]
        return Weight(self.precision, self.block, self.values[expert], scale)


def random_weight(random: np.random.Generator, precision: str, block: int, shape: tuple) -> Weight:
    """A weight [..., O, I] of random stored values."""
    inputs = shape[-1]
    spread = inputs**-0.5
    if precision in ("fp32", "fp16"):
        kind = {"fp32": np.float32, "fp16": np.float16}[precision]
        return Weight(precision, block, (random.normal(size=shape) * spread).astype(kind))
    if precision == "bf16":  # the upper half of a float32
        bits = (random.normal(size=shape) * spread).astype(np.float32).view(np.uint32)
        return Weight(precision, block, (bits >> 16).astype(np.uint16))
    blocks = (-(-inputs // block),) if block else ()
    steps = 127 if precision == "int8" else 8
    scale = random.uniform(0.2, 2, size=(*shape[:-1], *blocks)) * spread / steps
    scale = (scale * random.choice([-1, 1], size=scale.shape)).astype(np.float32)
    if precision == "int8":
        values = random.integers(-127, 128, size=shape, dtype=np.int8)
    else:
        values = random.integers(0, 256, size=(*shape[:-1], inputs // 2), dtype=np.uint8)
    return Weight(precision, block, values, scale)


def decode(weight: Weight) -> np.ndarray:
    """The numbers that a stored weight stands for."""
    values = weight.values
    if weight.precision == "bf16":
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if not weight.is_quantised:
        return values.astype(np.float64)
    if weight.precision == "int4":
        unpacked = np.empty((*values.shape[:-1], 2 * values.shape[-1]), np.float64)
        unpacked[..., 0::2] = values % 16
        unpacked[..., 1::2] = values // 16
        values = unpacked - 8
    result = np.empty(values.shape, np.float64)
    for i in range(values.shape[-1]):
        scale = weight.scale[..., i // weight.block] if weight.block else weight.scale
        result[..., i] = values[..., i] * scale.astype(np.float64)
    return result


def product(x: np.ndarray, weight: Weight) -> np.ndarray:
    """x [..., I] @ weight [O, I]^T; quantised weights see each token rounded to int8."""
    if weight.is_quantised:
        # float32, as the document has it: a tie must be a tie here too.
        single = x.astype(np.float32)
        peak = np.maximum(np.abs(single).max(-1, keepdims=True), np.float32(1e-30))
        codes = np.round(single * (np.float32(127) / peak))
        x = codes.astype(np.float64) * (peak.astype(np.float64) / 127)
    return x @ decode(weight).T


def mlp(
    x: np.ndarray, wi: Weight, wo: Weight, activation: str, is_gated: bool = False
) -> np.ndarray:
    """x [..., D] -> [..., D]; gated: wi has 2 F rows."""
    both = product(x, wi)
    if not is_gated:
        return product(ACTIVATIONS[activation](both), wo)
    d_ff = both.shape[-1] // 2
    return product(ACTIVATIONS[activation](both[..., :d_ff]) * both[..., d_ff:], wo)


def moe(
    x: np.ndarray, routes: tuple[np.ndarray, np.ndarray], stacks: tuple[Weight, Weight],
    activation: str = "relu", dropped: str = "zero", is_gated: bool = False,
) -> np.ndarray:
    """x [..., D], expert and gate [...], wi and wo [E, ...] -> [..., D]."""
    y = np.zeros_like(x)
    for token in np.ndindex(x.shape[:-1]):
        expert, gate = routes[0][token], routes[1][token]
        if expert >= 0:
            wi, wo = (stack[expert] for stack in stacks)
            y[token] = gate * mlp(x[token], wi, wo, activation, is_gated)
        elif dropped == "pass":
            y[token] = gate * x[token]
    return y


def norm(x, delta, weight, epsilon) -> tuple[np.ndarray, np.ndarray]:
    """The sum, and that normed."""
    return x + delta, reference.rms_norm(x + delta, weight, epsilon)


def route(normed, classifier, bias, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """normed [B, T, D] -> expert and gate [B, T]; capacity -1 drops nothing."""
    logits = normed @ classifier.T + (0.0 if bias is None else bias)
    return reference.route(logits, None if capacity < 0 else capacity)


def heads_of(x: np.ndarray, part: int, heads: int, d_kv: int) -> np.ndarray:
    """Part 0, 1, 2 of qkv [B, T, 3 H K] (q, k, v): [B, T, H, K]."""
    inner = heads * d_kv
    return x[..., part * inner : (part + 1) * inner].reshape(*x.shape[:2], heads, d_kv)


def self_attention(qkv, mask, bias, d_kv: int) -> np.ndarray:
    """qkv [B, S, 3 H K], mask [B, S], bias [2 M + 1, H] -> [B, S, H K]."""
    limit, heads = len(bias) // 2, bias.shape[1]
    q, k, v = (heads_of(qkv, part, heads, d_kv) for part in range(3))
    y = np.empty_like(q)
    tokens = qkv.shape[1]
    for row, i, h in np.ndindex(len(qkv), tokens, heads):
        scores = np.empty(tokens)
        for j in range(tokens):
            distance = min(max(j - i, -limit), limit)
            scores[j] = q[row, i, h] @ k[row, j, h] + bias[distance + limit, h]
            if mask[row, j] == 0:
                scores[j] = LOWEST
        y[row, i, h] = softmax(scores) @ v[row, :, h]
    return y.reshape(*qkv.shape[:2], heads * d_kv)


def cached_attention(qkv, cached, position: int, bias) -> tuple[np.ndarray, ...]:
    """qkv [R, T, 3 H K], cached keys and values [R, H, C, K], bias [2 M + 1, H].

    Returns:
        y [R, T, H K], new keys and values [R, H, T, K].
    """
    limit, heads = len(bias) // 2, bias.shape[1]
    d_kv = cached[0].shape[-1]
    q, k, v = (heads_of(qkv, part, heads, d_kv) for part in range(3))
    y = np.empty_like(q)
    for row, t, h in np.ndindex(len(qkv), qkv.shape[1], heads):
        place = position + t
        keys = np.concatenate((cached[0][row, h, :position], k[row, : t + 1, h]))
        values = np.concatenate((cached[1][row, h, :position], v[row, : t + 1, h]))
        distances = np.clip(np.arange(place + 1) - place, -limit, limit)
        scores = keys @ q[row, t, h] + bias[distances + limit, h]
        y[row, t, h] = softmax(scores) @ values
    y = y.reshape(*qkv.shape[:2], heads * d_kv)
    return y, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)


def cross_attention(q, key, value, mask) -> np.ndarray:
    """q [R, T, H K], key and value [B, H, S, K], mask [B, S] -> [R, T, H K]."""
    rows, tokens, _ = q.shape
    batch, heads, _, d_kv = key.shape
    y = np.empty((rows, tokens, heads, d_kv))
    for r, t, h in np.ndindex(rows, tokens, heads):
        source = r // (rows // batch)
        scores = key[source, h] @ q[r, t, h * d_kv : (h + 1) * d_kv]
        y[r, t, h] = softmax(np.where(mask[source] == 0, LOWEST, scores)) @ value[source, h]
    return y.reshape(q.shape)
