"""The encoder graph: token ids -> cross keys and values (or hidden states)."""

import torch
from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.attention import (
    CrossProjections,
    RelativeBias,
    SelfAttention,
    padding_bias,
)
from switch_export.model.feed_forward import FeedForward
from switch_export.model.layers import Embedding, RmsNorm
from switch_export.moe.router import Capacity


class EncoderBlock(nn.Module):
    """Self-attention, then an MLP, dense or sparse."""

    def __init__(self, config: SwitchConfig, index: int, capacity: Capacity):
        super().__init__()
        self.attention = SelfAttention(config)
        self.mlp = FeedForward(config, index in config.sparse_encoder_layers, capacity)

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x [B, S, D], bias [B, H, S, S] -> x, and (expert, gate) [B, S] if the MLP is sparse."""
        return self.mlp(self.attention(x, bias))


class Encoder(nn.Module):
    """What encoder.onnx computes; outputs in the order of `output_names`."""

    def __init__(self, config: SwitchConfig, capacity: Capacity, task: str):
        super().__init__()
        self.embedding = Embedding(config.vocab_size, config.d_model)
        self.position = RelativeBias(config)
        self.blocks = nn.ModuleList(
            EncoderBlock(config, i, capacity) for i in range(config.num_layers)
        )
        self.norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        crossed = 0 if task == "encoder" else config.num_decoder_layers
        self.cross = nn.ModuleList(CrossProjections(config) for _ in range(crossed))
        self.output_names = _output_names(config, task)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Encode input_ids and attention_mask, [B, S] each."""
        place = torch.arange(input_ids.shape[1])
        bias = self.position(place.unsqueeze(0) - place.unsqueeze(1))  # [1, H, S, S]
        bias = bias + padding_bias(attention_mask)                    # [B, H, S, S]
        x = self.embedding(input_ids)                                 # [B, S, D]
        routes: list[Tensor] = []
        for block in self.blocks:
            x, route = block(x, bias)
            routes.extend(route)
        x = self.norm(x)
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
