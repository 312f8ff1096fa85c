"""Attention with T5's relative position bias.

Scores are not scaled (T5 folds 1/sqrt(d) into its initialisation), and what may not be attended to
scores the lowest finite number, so that a row with nothing to attend to is uniform instead of NaN.
"""

import math

import torch
from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.layers import Linear, Norm
from switch_export.model.operators import add_weight, node, product, tracing, weights
from switch_export.quantize import Precision

LOWEST = torch.finfo(torch.float32).min


def bucket_table(num_buckets: int, max_distance: int, bidirectional: bool) -> Tensor:
    """Bucket of every relative position, int64.

    Args:
        bidirectional: the encoder's form; the decoder's has no bucket for keys after the query.

    Returns:
        [2 * max_distance + 1] for key_pos - query_pos = -max_distance ... max_distance;
        what is farther away has the bucket of the nearest end.

    The logarithm is taken in float32 in transformers' order of operations: folding the constants
    in float64 moves distance 64 of the encoder to another bucket.
    """
    relative = torch.arange(-max_distance, max_distance + 1)
    first = torch.zeros_like(relative)
    if bidirectional:
        num_buckets //= 2
        first = (relative > 0).long() * num_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = num_buckets // 2
    large = exact + (
        torch.log(distance.float() / exact)
        / math.log(max_distance / exact)
        * (num_buckets - exact)
    ).nan_to_num(neginf=0.0).long()
    large = large.clamp(max=num_buckets - 1)
    return first + torch.where(distance < exact, distance, large)


class PositionBias(nn.Module):
    """The position bias of a stack by distance: one table in its first block, used by all."""

    def __init__(self, config: SwitchConfig):
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(config.num_buckets, config.num_heads), requires_grad=False
        )
        distances = 2 * config.max_distance + 1
        self.register_buffer("buckets", torch.empty(distances, dtype=torch.long))

    def forward(self) -> Tensor:
        """Bias of key_pos - query_pos = -M ... M: [2 * M + 1, H]."""
        return nn.functional.embedding(self.buckets, self.weight)


def look_up(bias: Tensor, relative: Tensor) -> Tensor:
    """Give key_pos - query_pos [Q, K] its bias [H, Q, K] from the table [2 * M + 1, H]."""
    limit = bias.shape[0] // 2
    return bias[relative.clamp(-limit, limit) + limit].permute(2, 0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, allowed: Tensor) -> Tensor:
    """q [.., Q, K] on k and v [.., S, K]; bias and allowed of the shape of scores -> [.., Q, K]."""
    scores = q @ k.transpose(-1, -2) + bias                           # [.., Q, S]
    return torch.softmax(scores.masked_fill(~allowed, LOWEST), -1) @ v


def split(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """x [B, T, parts * H * K] -> `parts` tensors [B, H, T, K]."""
    batch, tokens, _ = x.shape
    return tuple(x.reshape(batch, tokens, parts, heads, -1).permute(2, 0, 3, 1, 4))


def merge(x: Tensor) -> Tensor:
    """x [B, H, T, K] -> [B, T, H * K]."""
    return x.transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    """What the attentions share: the norm before and the map back to d_model after."""

    def __init__(self, config: SwitchConfig, precision: Precision):
        super().__init__()
        self.heads, self.d_kv = config.num_heads, config.d_kv
        self.inner = config.num_heads * config.d_kv  # need not be d_model
        self.norm = Norm(config.d_model, config.layer_norm_epsilon)
        self.o = Linear(self.inner, config.d_model, precision)


class SelfAttention(_Attention):
    """Attention of all tokens to all tokens: the encoder's."""

    def __init__(self, config: SwitchConfig, precision: Precision):
        super().__init__(config, precision)
        self.qkv = Linear(config.d_model, 3 * self.inner, precision)

    def forward(
        self, x: Tensor, delta: Tensor | None, mask: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x, delta [B, S, D], mask [B, S], bias [2 M + 1, H] -> x + delta, and what to add next."""
        x, normed = self.norm(x, delta)
        return x, self.o(self.mix(self.qkv(normed), mask, bias))

    def mix(self, qkv: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        """qkv [B, S, 3 H K] -> [B, S, H K]."""
        if tracing():
            shape = (*qkv.shape[:-1], self.inner)
            return node("SwitchSelfAttention", (qkv, mask, bias), [(qkv.dtype, shape)])
        q, k, v = split(qkv, 3, self.heads)
        place = torch.arange(qkv.shape[1])
        positions = look_up(bias, place[None] - place[:, None])
        return merge(attend(q, k, v, positions, mask[:, None, None] != 0))


class CachedSelfAttention(_Attention):
    """Attention of new tokens to cached tokens and to each other: the decoder's."""

    def __init__(self, config: SwitchConfig, precision: Precision):
        super().__init__(config, precision)
        self.qkv = Linear(config.d_model, 3 * self.inner, precision)

    def forward(
        self, x: Tensor, delta: Tensor | None, cached: tuple[Tensor, Tensor], place: tuple
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Attend.

        Args:
            x, delta: [R, T, D].
            cached: keys and values, [R, H, C, K] each.
            place: how many of them are valid [], and the position bias [2 M + 1, H].

        Returns:
            x + delta, what to add to it, new keys and new values [R, H, T, K].
        """
        x, normed = self.norm(x, delta)
        mixed, keys, values = self.mix(self.qkv(normed), *cached, *place)
        return x, self.o(mixed), keys, values

    def mix(
        self, qkv: Tensor, key: Tensor, value: Tensor, position: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """qkv [R, T, 3 H K] -> [R, T, H K], and its own keys and values [R, H, T, K]."""
        rows, tokens, _ = qkv.shape
        if tracing():
            new = (qkv.dtype, (rows, self.heads, tokens, self.d_kv))
            outputs = [(qkv.dtype, (rows, tokens, self.inner)), new, new]
            return node("SwitchCachedAttention", (qkv, key, value, position, bias), outputs)
        q, k, v = split(qkv, 3, self.heads)
        stored, query = torch.arange(key.shape[2]), position + torch.arange(tokens)
        place = torch.cat((stored, query))                            # [C + T]
        known = torch.cat((stored < position, query >= 0))
        allowed = known & (place <= query[:, None])                   # [T, C + T]
        positions = look_up(bias, place - query[:, None])
        keys, values = torch.cat((key, k), 2), torch.cat((value, v), 2)
        return merge(attend(q, keys, values, positions, allowed)), k, v


class CrossAttention(_Attention):
    """Attention of decoder tokens to the source, without position bias.

    The beams of one source ride on the query axis, so its keys and values are never repeated.
    """

    def __init__(self, config: SwitchConfig, precision: Precision):
        super().__init__(config, precision)
        self.q = Linear(config.d_model, self.inner, precision)

    def forward(
        self, x: Tensor, delta: Tensor, cross: tuple[Tensor, Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x, delta [R, T, D], cross keys, values [B, H, S, K], mask [B, S] -> as SelfAttention."""
        x, normed = self.norm(x, delta)
        return x, self.o(self.mix(self.q(normed), *cross, mask))

    def mix(self, q: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """q [R, T, H K] -> [R, T, H K]."""
        if tracing():
            return node("SwitchCrossAttention", (q, key, value, mask), [(q.dtype, q.shape)])
        queries = q.reshape(len(key), -1, self.inner)                 # [B, beams * T, H K]
        (queries,) = split(queries, 1, self.heads)
        allowed = mask[:, None, None] != 0
        return merge(attend(queries, key, value, torch.zeros(()), allowed)).reshape(q.shape)


class CrossProjections(nn.Module):
    """A decoder block's keys and values of the encoder's output; computed in the encoder graph."""

    def __init__(self, config: SwitchConfig, precision: Precision):
        super().__init__()
        self.heads, self.d_kv, self.precision = config.num_heads, config.d_kv, precision
        inner = config.num_heads * config.d_kv
        add_weight(self, "weight", (2 * inner, config.d_model), precision)

    def forward(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """encoded [B, S, D] -> keys, values [B, H, S, K]."""
        if not tracing():
            return split(product(encoded, self.weight, self.precision), 2, self.heads)
        batch, tokens, _ = encoded.shape
        output = (encoded.dtype, (batch, self.heads, tokens, self.d_kv))
        return node(
            "SwitchKeyValue", (encoded, *weights(self, "weight")), [output] * 2,
            heads=self.heads, block=self.precision.block,
        )
