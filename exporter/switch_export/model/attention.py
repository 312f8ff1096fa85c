"""Attention with T5's relative position bias, as MatMul, Add, Softmax, MatMul.

Scores are not scaled (T5 folds 1/sqrt(d) into its initialisation) and masks are added as the
lowest finite number, so that a row with nothing to attend to is uniform instead of NaN.
"""

import math

import torch
from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.layers import Linear, RmsNorm, matmul

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


class RelativeBias(nn.Module):
    """The position bias of a stack: one table in its first block, used by all of them."""

    def __init__(self, config: SwitchConfig):
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(config.num_buckets, config.num_heads), requires_grad=False
        )
        self.max_distance = config.max_distance
        self.register_buffer("buckets", torch.empty(2 * self.max_distance + 1, dtype=torch.long))

    def forward(self, relative: Tensor) -> Tensor:
        """Give key_pos - query_pos [Q, K] its bias [1, H, Q, K]."""
        limit = self.max_distance
        by_distance = nn.functional.embedding(self.buckets, self.weight)  # [distances, H]
        index = relative.clamp(-limit, limit) + limit                 # [Q, K]
        bias = nn.functional.embedding(index, by_distance)            # [Q, K, H]
        return bias.permute(2, 0, 1).unsqueeze(0)                     # [1, H, Q, K]


def padding_bias(attention_mask: Tensor) -> Tensor:
    """attention_mask [B, S] of ones and zeros -> what is added to scores, [B, 1, 1, S]."""
    return ((1 - attention_mask).to(torch.float32) * LOWEST).unsqueeze(1).unsqueeze(1)


class Projections(nn.Module):
    """The linear maps named in `names`: q, k, v to the heads, o back to d_model."""

    def __init__(self, config: SwitchConfig, names: str):
        super().__init__()
        self.num_heads, self.d_kv = config.num_heads, config.d_kv
        inner = config.num_heads * config.d_kv  # need not be d_model
        for name in names:
            sizes = (inner, config.d_model) if name == "o" else (config.d_model, inner)
            self.add_module(name, Linear(*sizes))

    def split(self, projected: Tensor) -> Tensor:
        """[B, T, H * K] -> [B, H, T, K]."""
        batch, tokens = projected.shape[:2]
        return projected.reshape(batch, tokens, self.num_heads, self.d_kv).transpose(1, 2)

    def merge(self, heads: Tensor) -> Tensor:
        """[B, H, T, K] -> [B, T, D], through the output projection."""
        batch, _, tokens, _ = heads.shape
        inner = self.num_heads * self.d_kv
        return self.o(heads.transpose(1, 2).reshape(batch, tokens, inner))


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens: the encoder's."""

    def __init__(self, config: SwitchConfig):
        super().__init__()
        self.norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.map = Projections(config, "qkvo")

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, S, D], bias [B, H, S, S] (positions and padding) -> x + attention."""
        normed = self.norm(x)
        q, k, v = (self.map.split(part(normed)) for part in (self.map.q, self.map.k, self.map.v))
        scores = matmul(q, k.transpose(-1, -2)) + bias                # [B, H, S, S]
        return x + self.map.merge(matmul(torch.softmax(scores, -1), v))


class CachedSelfAttention(nn.Module):
    """Attention of new tokens to cached tokens and to each other: the decoder's.

    Cached and new keys are never joined: their scores are, so that no step copies the cache.

        q ──► @ cached keys ─► scores [R, H, T, C] ─┐
        └───► @ new keys ────► scores [R, H, T, T] ─┴► softmax ─┬► [.., :C] @ cached values ─┐
                                                               └► [.., C:] @ new values ─────┴► +
    """

    def __init__(self, config: SwitchConfig):
        super().__init__()
        self.norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.map = Projections(config, "qkvo")

    def forward(
        self, x: Tensor, cached: tuple[Tensor, Tensor], biases: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend.

        Args:
            x: [R, T, D].
            cached: keys and values, [R, H, C, K] each.
            biases: for the scores of cached and of new keys, [1, H, T, C] and [1, H, T, T].

        Returns:
            x + attention, new keys and new values [R, H, T, K].
        """
        normed = self.norm(x)
        q, k, v = (self.map.split(part(normed)) for part in (self.map.q, self.map.k, self.map.v))
        keys, values = cached
        capacity = keys.shape[2]
        old = matmul(q, keys.transpose(-1, -2)) + biases[0]           # [R, H, T, C]
        new = matmul(q, k.transpose(-1, -2)) + biases[1]              # [R, H, T, T]
        weights = torch.softmax(torch.cat((old, new), -1), -1)        # [R, H, T, C + T]
        mixed = matmul(weights[..., :capacity], values) + matmul(weights[..., capacity:], v)
        return x + self.map.merge(mixed), k, v


class CrossAttention(nn.Module):
    """Attention of decoder tokens to the source, without position bias.

    The beams of one source ride on the query axis, so its keys and values are never repeated.
    """

    def __init__(self, config: SwitchConfig):
        super().__init__()
        self.norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.map = Projections(config, "qo")

    def forward(self, x: Tensor, cross: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """x [R, T, D], cross keys and values [B, H, S, K], bias [B, 1, 1, S] -> x + attention."""
        keys, values = cross
        rows, tokens, _ = x.shape
        batch = keys.shape[0]
        heads, d_kv = self.map.num_heads, self.map.d_kv
        beams = rows // batch
        torch._check(beams * batch == rows)
        q = self.map.q(self.norm(x)).reshape(batch, beams * tokens, heads, d_kv).transpose(1, 2)
        scores = matmul(q, keys.transpose(-1, -2)) + bias             # [B, H, beams * T, S]
        mixed = matmul(torch.softmax(scores, -1), values)
        mixed = mixed.transpose(1, 2).reshape(rows, tokens, heads * d_kv)
        return x + self.map.o(mixed)


class CrossProjections(nn.Module):
    """A decoder block's keys and values of the encoder's output; computed in the encoder graph."""

    def __init__(self, config: SwitchConfig):
        super().__init__()
        self.map = Projections(config, "kv")

    def forward(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """encoded [B, S, D] -> keys, values [B, H, S, K]."""
        return self.map.split(self.map.k(encoded)), self.map.split(self.map.v(encoded))
