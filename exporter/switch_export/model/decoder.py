"""The decoder graph: some steps, with the caches as inputs and only their new rows as outputs."""

from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.attention import CachedSelfAttention, CrossAttention, PositionBias
from switch_export.model.feed_forward import FeedForward
from switch_export.model.layers import Embedding, Head, Norm
from switch_export.moe.router import Capacity
from switch_export.quantize import Precision

Pair = tuple[Tensor, Tensor]


class DecoderBlock(nn.Module):
    """Self-attention over the cache, cross-attention, then an MLP, dense or sparse."""

    def __init__(self, config: SwitchConfig, index: int, capacity: Capacity, precision: Precision):
        super().__init__()
        self.attention = CachedSelfAttention(config, precision)
        self.cross = CrossAttention(config, precision)
        is_sparse = index in config.sparse_decoder_layers
        self.mlp = FeedForward(config, is_sparse, capacity, precision)

    def forward(
        self, stream: tuple[Tensor, Tensor | None], cached: Pair, place: Pair, crossed: Pair,
        mask: Tensor,
    ) -> tuple[tuple[Tensor, Tensor], Pair, tuple[Tensor, ...]]:
        """One block.

        Args:
            stream: the residual stream and what the block before adds to it, [R, T, D] each.
            cached, place: see CachedSelfAttention.
            crossed, mask: see CrossAttention.

        Returns:
            the stream for the next block, (new keys, new values), and (expert, gate) if sparse.
        """
        x, delta, keys, values = self.attention(*stream, cached, place)
        x, delta, route = self.mlp(*self.cross(x, delta, crossed, mask))
        return (x, delta), (keys, values), route


class Decoder(nn.Module):
    """What decoder.onnx computes; outputs in the order of `output_names`."""

    def __init__(self, config: SwitchConfig, capacity: Capacity, task: str, precision: Precision):
        super().__init__()
        self.embedding = Embedding(config.vocab_size, config.d_model, precision)
        self.position = PositionBias(config)
        self.blocks = nn.ModuleList(
            DecoderBlock(config, i, capacity, precision) for i in range(config.num_decoder_layers)
        )
        self.norm = Norm(config.d_model, config.layer_norm_epsilon)
        scale = config.d_model**-0.5 if config.tie_word_embeddings else 1.0
        self.head = None
        if task == "seq2seq":
            self.head = Head(config.vocab_size, config.d_model, scale, precision)
        self.output_names = _output_names(config, task)

    def forward(
        self,
        input_ids: Tensor,
        position: Tensor,
        attention_mask: Tensor,
        self_cache: list[Pair],
        cross_cache: list[Pair],
    ) -> tuple[Tensor, ...]:
        """Decode.

        Args:
            input_ids: the new tokens, [R, T].
            position: tokens already cached, [].
            attention_mask: of the source, [B, S].
            self_cache: keys and values per block, [R, H, C, K], the first `position` valid.
            cross_cache: keys and values per block, [B, H, S, K].
        """
        place = position, self.position()
        stream = self.embedding(input_ids), None                      # [R, T, D]
        rows: list[Tensor] = []
        routes: list[Tensor] = []
        for block, cached, crossed in zip(self.blocks, self_cache, cross_cache, strict=True):
            stream, new, route = block(stream, cached, place, crossed, attention_mask)
            rows.extend(new)
            routes.extend(route)
        _, x = self.norm(*stream)
        return (x if self.head is None else self.head(x), *rows, *routes)


def _output_names(config: SwitchConfig, task: str) -> list[str]:
    first = "logits" if task == "seq2seq" else "last_hidden_state"
    blocks = range(config.num_decoder_layers)
    rows = [f"new_{part}.{i}" for i in blocks for part in ("key", "value")]
    sparse = config.sparse_decoder_layers
    return [first, *rows, *(f"{part}.{i}" for i in sparse for part in ("expert", "gate"))]
