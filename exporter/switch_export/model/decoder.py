"""The decoder graph: some steps, with the caches as inputs and only their new rows as outputs."""

import torch
from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.attention import (
    LOWEST,
    CachedSelfAttention,
    CrossAttention,
    RelativeBias,
    padding_bias,
)
from switch_export.model.feed_forward import FeedForward
from switch_export.model.layers import Embedding, Head, RmsNorm
from switch_export.moe.router import Capacity


class DecoderBlock(nn.Module):
    """Self-attention over the cache, cross-attention, then an MLP, dense or sparse."""

    def __init__(self, config: SwitchConfig, index: int, capacity: Capacity):
        super().__init__()
        self.attention = CachedSelfAttention(config)
        self.cross = CrossAttention(config)
        self.mlp = FeedForward(config, index in config.sparse_decoder_layers, capacity)

    def forward(
        self,
        x: Tensor,
        cached: tuple[Tensor, Tensor],
        crossed: tuple[Tensor, Tensor],
        biases: tuple[Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        """x [R, T, D] -> x, (new keys, new values), and (expert, gate) if the MLP is sparse."""
        x, keys, values = self.attention(x, cached, biases[:2])
        x, route = self.mlp(self.cross(x, crossed, biases[2]))
        return x, (keys, values), route


class Decoder(nn.Module):
    """What decoder.onnx computes; outputs in the order of `output_names`."""

    def __init__(self, config: SwitchConfig, capacity: Capacity, task: str):
        super().__init__()
        self.embedding = Embedding(config.vocab_size, config.d_model)
        self.position = RelativeBias(config)
        self.blocks = nn.ModuleList(
            DecoderBlock(config, i, capacity) for i in range(config.num_decoder_layers)
        )
        self.norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        scale = config.d_model**-0.5 if config.tie_word_embeddings else 1.0
        self.head = Head(config.vocab_size, config.d_model, scale) if task == "seq2seq" else None
        self.output_names = _output_names(config, task)

    def forward(
        self,
        input_ids: Tensor,
        position: Tensor,
        attention_mask: Tensor,
        self_cache: list[tuple[Tensor, Tensor]],
        cross_cache: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, ...]:
        """Decode.

        Args:
            input_ids: the new tokens, [R, T].
            position: tokens already cached, [].
            attention_mask: of the source, [B, S].
            self_cache: keys and values per block, [R, H, C, K], the first `position` valid.
            cross_cache: keys and values per block, [B, H, S, K].
        """
        capacity = self_cache[0][0].shape[2]
        biases = (
            *self._self_biases(position, input_ids.shape[1], capacity),
            padding_bias(attention_mask),
        )
        x = self.embedding(input_ids)                                 # [R, T, D]
        rows: list[Tensor] = []
        routes: list[Tensor] = []
        for block, cached, crossed in zip(self.blocks, self_cache, cross_cache, strict=True):
            x, new, route = block(x, cached, crossed, biases)
            rows.extend(new)
            routes.extend(route)
        x = self.norm(x)
        return (x if self.head is None else self.head(x), *rows, *routes)

    def _self_biases(self, position: Tensor, tokens: int, capacity: int) -> tuple[Tensor, Tensor]:
        """Position bias and mask for the scores of cached and of new keys.

        Both come from one look-up over the keys [cached | new]: [1, H, T, C], [1, H, T, T].
        """
        new = torch.arange(tokens)
        query = (position + new).unsqueeze(1)                         # [T, 1]
        stored = torch.arange(capacity)
        key = torch.cat((stored, position + new)).unsqueeze(0)        # [1, C + T]
        allowed = torch.cat((stored < position, new >= 0)).unsqueeze(0) & (key <= query)
        bias = self.position(key - query)                             # [1, H, T, C + T]
        bias = torch.where(allowed, bias, LOWEST)
        return bias[..., :capacity], bias[..., capacity:]


def _output_names(config: SwitchConfig, task: str) -> list[str]:
    first = "logits" if task == "seq2seq" else "last_hidden_state"
    blocks = range(config.num_decoder_layers)
    rows = [f"new_{part}.{i}" for i in blocks for part in ("key", "value")]
    sparse = config.sparse_decoder_layers
    return [first, *rows, *(f"{part}.{i}" for i in sparse for part in ("expert", "gate"))]
