"""Top-1 routing with expert capacity: standard operators, the same in every engine."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.layers import matmul

#: `--capacity`: transformers 5.18+ drops to zero, 5.0-5.17 never drops, <= 4.51 passes gate * x.
POLICIES = ("hf", "none", "legacy")


@dataclass(frozen=True)
class Capacity:
    """How many tokens an expert takes from one row, and what becomes of the rest."""

    policy: str
    tokens: int

    @property
    def dropped(self) -> str:
        """The operator's attribute of that name."""
        return "pass" if self.policy == "legacy" else "zero"


class Router(nn.Module):
    """Pick one expert per token and drop the tokens that an expert has no room for."""

    def __init__(self, config: SwitchConfig, capacity: Capacity):
        super().__init__()
        experts = config.num_experts
        self.weight = nn.Parameter(torch.empty(config.d_model, experts), requires_grad=False)
        bias = nn.Parameter(torch.empty(experts), requires_grad=False)
        self.bias = bias if config.router_bias else None
        self.num_experts = experts
        self.capacity = capacity
        self.half = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(config.router_dtype)

    def _round(self, x: Tensor) -> Tensor:
        """Round to `router_dtype`; the arithmetic stays float32, which engines have everywhere."""
        return x if self.half is None else x.to(self.half).to(torch.float32)

    def probabilities(self, x: Tensor) -> Tensor:
        """x [B, T, D], layer-normed -> [B, T, E]."""
        logits = matmul(self._round(x), self._round(self.weight))
        if self.bias is not None:
            logits = self._round(logits) + self._round(self.bias)
        return self._round(torch.softmax(self._round(logits), -1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Route x [B, T, D].

        Returns:
            expert: int32 [B, T], the lowest index on ties; -1 where the token was dropped.
            gate: float32 [B, T], the probability of the choice, whether dropped or not.

        Capacity is counted along each row, padding included, as transformers counts it.
        """
        probabilities = self.probabilities(x)                         # [B, T, E]
        gate = probabilities.amax(-1)                                 # [B, T]
        expert = probabilities.argmax(-1)                             # [B, T]
        if self.capacity.policy == "none":
            return expert.to(torch.int32), gate
        chosen = (expert[..., None] == torch.arange(self.num_experts)).to(torch.int32)
        place = (chosen.cumsum(1).to(torch.int32) * chosen).sum(-1)   # [B, T] 1-based queue place
        kept = torch.where(place > self.capacity.tokens, -1, expert)
        return kept.to(torch.int32), gate
