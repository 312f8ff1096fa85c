"""The experts of one layer: as one SwitchMoE node when traced, streamed when run."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.layers import ACTIVATIONS
from switch_export.moe.router import Capacity, Router
from switch_plugins import spec


class Experts(nn.Module):
    """y[t] = gate[t] * (act(x[t] @ wi[e]^T) @ wo[e]^T), e = expert[t].

    `wi` [E, F, D] and `wo` [E, D, F] exist to be traced. To run the layer, `load_expert` is set: it
    gives the two matrices of one expert, so that a stack of any size never has to be in memory.
    """

    def __init__(self, config: SwitchConfig, capacity: Capacity):
        super().__init__()
        experts, d_ff, d_model = config.num_experts, config.d_ff, config.d_model
        self.wi = nn.Parameter(torch.empty(experts, d_ff, d_model), requires_grad=False)
        self.wo = nn.Parameter(torch.empty(experts, d_model, d_ff), requires_grad=False)
        self.activation = config.activation
        self.dropped = capacity.dropped
        self.load_expert: Callable[[int], tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor, expert: Tensor, gate: Tensor) -> Tensor:
        """x [tokens, D], expert int32 [tokens], gate float32 [tokens] -> [tokens, D]."""
        if self.load_expert is None:
            attributes = {"activation": self.activation, "dropped": self.dropped}
            return torch.onnx.ops.symbolic(
                f"{spec.DOMAIN}::{spec.NAME}", (x, expert, gate, self.wi, self.wo), attributes,
                dtype=x.dtype, shape=x.shape, version=spec.VERSION,
            )
        act = ACTIVATIONS[self.activation]
        y = x.clone() if self.dropped == "pass" else torch.zeros_like(x)
        for index in expert.unique().tolist():
            if index >= 0:
                wi, wo = self.load_expert(index)
                rows = expert == index
                y[rows] = act(x[rows] @ wi.T) @ wo.T
        kept = (expert >= 0)[:, None] if self.dropped == "zero" else torch.tensor(True)
        return torch.where(kept, y * gate[:, None], torch.zeros_like(y))


class SparseMlp(nn.Module):
    """Route, then let each token's expert answer."""

    def __init__(self, config: SwitchConfig, capacity: Capacity):
        super().__init__()
        self.router = Router(config, capacity)
        self.experts = Experts(config, capacity)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D], layer-normed -> y [B, T, D], expert and gate [B, T]."""
        expert, gate = self.router(x)
        y = self.experts(x.reshape(-1, x.shape[-1]), expert.reshape(-1), gate.reshape(-1))
        return y.reshape(x.shape), expert, gate
