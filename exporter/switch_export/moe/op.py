"""The experts of one layer: as one SwitchMoE node when traced, streamed when run."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.layers import Activation
from switch_export.model.operators import add_weight, node, product, tracing, weights
from switch_export.moe.router import Capacity
from switch_export.quantize import Precision


class Experts(nn.Module):
    """y[t] = gate[t] * (act(x[t] @ wi[e]^T) @ wo[e]^T), e = expert[t].

    `wi` [E, F, D] (gated: [E, 2 F, D]) and `wo` [E, D, F] exist to be traced. To run the layer,
    `load_expert` is set: it gives the two matrices of one expert, so that a stack of any size never
    has to be in memory.
    """

    def __init__(self, config: SwitchConfig, capacity: Capacity, precision: Precision):
        super().__init__()
        experts, d_ff, d_model = config.num_experts, config.d_ff, config.d_model
        self.act, self.precision = Activation(config), precision
        add_weight(self, "wi", (experts, self.act.rows, d_model), precision)
        add_weight(self, "wo", (experts, d_model, d_ff), precision)
        self.dropped = capacity.dropped
        self.load_expert: Callable[[int], tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor, expert: Tensor, gate: Tensor) -> Tensor:
        """x [..., D], expert int32 [...], gate float32 [...] -> [..., D]."""
        if tracing():
            return node(
                "SwitchMoE", (x, expert, gate, *weights(self, "wi", "wo")), [(x.dtype, x.shape)],
                **self.act.attributes, dropped=self.dropped, block=self.precision.block,
            )
        y = x.clone() if self.dropped == "pass" else torch.zeros_like(x)
        for index in expert.unique().tolist():
            if index >= 0:
                wi, wo = self.load_expert(index)
                rows = expert == index
                hidden = self.act(product(x[rows], wi, self.precision))
                y[rows] = product(hidden, wo, self.precision)
        scaled = y * gate[..., None]
        if self.dropped == "pass":
            return scaled
        return torch.where((expert >= 0)[..., None], scaled, torch.zeros_like(y))
