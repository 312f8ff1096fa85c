"""The encoder graph: token ids -> cross keys and values (or hidden states)."""

from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.attention import CrossProjections, PositionBias, SelfAttention
from switch_export.model.feed_forward import FeedForward
from switch_export.model.layers import Embedding, Norm
from switch_export.moe.router import Capacity
from switch_export.quantize import Precision


class EncoderBlock(nn.Module):
    """Self-attention, then an MLP, dense or sparse."""

    def __init__(self, config: SwitchConfig, index: int, capacity: Capacity, precision: Precision):
        super().__init__()
        self.attention = SelfAttention(config, precision)
        is_sparse = index in config.sparse_encoder_layers
        self.mlp = FeedForward(config, is_sparse, capacity, precision)

    def forward(
        self, x: Tensor, delta: Tensor | None, mask: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """One block.

        Args:
            x, delta: the residual stream and what the block before adds to it, [B, S, D].
            mask: [B, S].
            bias: by distance, [2 M + 1, H].

        Returns:
            x and delta for the next block, and (expert, gate) [B, S] if the MLP is sparse.
        """
        return self.mlp(*self.attention(x, delta, mask, bias))


class Encoder(nn.Module):
    """What encoder.onnx computes; outputs in the order of `output_names`."""

    def __init__(self, config: SwitchConfig, capacity: Capacity, task: str, precision: Precision):
        super().__init__()
        self.embedding = Embedding(config.vocab_size, config.d_model, precision)
        self.position = PositionBias(config)
        self.blocks = nn.ModuleList(
            EncoderBlock(config, i, capacity, precision) for i in range(config.num_layers)
        )
        self.norm = Norm(config.d_model, config.layer_norm_epsilon)
        crossed = 0 if task == "encoder" else config.num_decoder_layers
        self.cross = nn.ModuleList(CrossProjections(config, precision) for _ in range(crossed))
        self.output_names = _output_names(config, task)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Encode input_ids and attention_mask, [B, S] each."""
        bias = self.position()
        x, delta = self.embedding(input_ids), None                    # [B, S, D]
        routes: list[Tensor] = []
        for block in self.blocks:
            x, delta, route = block(x, delta, attention_mask, bias)
            routes.extend(route)
        _, x = self.norm(x, delta)
        crossed = [part for project in self.cross for part in project(x)]
        return (*(crossed or [x]), *routes)


def _output_names(config: SwitchConfig, task: str) -> list[str]:
    names = ["last_hidden_state"]
    if task != "encoder":
        names = [
            f"cross_{part}.{i}" for i in range(config.num_decoder_layers)
            for part in ("key", "value")
        ]
    sparse = config.sparse_encoder_layers
    return [*names, *(f"{part}.{i}" for i in sparse for part in ("expert", "gate"))]
