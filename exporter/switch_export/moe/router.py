"""Top-1 routing with expert capacity."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.layers import Norm
from switch_export.model.operators import node, tracing

#: `--capacity`: transformers 5.18+ drops to zero, 5.0-5.17 never drops, <= 4.51 passes gate * x.
POLICIES = ("hf", "none", "legacy")


@dataclass(frozen=True)
class Capacity:
    """How many tokens an expert takes from one row, and what becomes of the rest."""

    policy: str
    tokens: int

    @property
    def dropped(self) -> str:
        """SwitchMoE's attribute of that name."""
        return "pass" if self.policy == "legacy" else "zero"

    @property
    def limit(self) -> int:
        """SwitchRouter's attribute `capacity`."""
        return -1 if self.policy == "none" else self.tokens


class Router(nn.Module):
    """The norm before the experts, and one expert for every token that its expert has room for."""

    def __init__(self, config: SwitchConfig, capacity: Capacity):
        super().__init__()
        experts = config.num_experts
        self.norm = Norm(config.d_model, config.layer_norm_epsilon)
        self.weight = nn.Parameter(torch.empty(experts, config.d_model), requires_grad=False)
        bias = nn.Parameter(torch.empty(experts), requires_grad=False)
        self.bias = bias if config.router_bias else None
        self.num_experts = experts
        self.capacity = capacity
        #: Takes the place of the largest probability: probabilities [B, T, E] -> expert [B, T].
        self.choose: Callable[[Tensor], Tensor] | None = None
        self.half = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(config.router_dtype)

    def forward(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, delta [B, T, D] -> their sum, that normed, and what `route` gives.

        A router in half precision rounds in between, which SwitchRouter does not: it stays in
        standard operators.
        """
        if self.half is None and tracing():
            inputs = (x, delta, self.norm.weight, self.weight)
            tokens = x.shape[:-1]
            outputs = [(x.dtype, x.shape)] * 2 + [(torch.int32, tokens), (torch.float32, tokens)]
            return node(
                "SwitchRouter", inputs if self.bias is None else (*inputs, self.bias), outputs,
                epsilon=self.norm.epsilon, capacity=self.capacity.limit,
            )
        x, normed = self.norm(x, delta)
        return x, normed, *self.route(normed)

    def _round(self, x: Tensor) -> Tensor:
        """Round to `router_dtype`; the arithmetic stays float32, which engines have everywhere."""
        return x if self.half is None else x.to(self.half).to(torch.float32)

    def probabilities(self, x: Tensor) -> Tensor:
        """x [B, T, D], layer-normed -> [B, T, E]."""
        logits = _matmul(self._round(x), self._round(self.weight).T)
        if self.bias is not None:
            logits = self._round(logits) + self._round(self.bias)
        return self._round(torch.softmax(self._round(logits), -1))

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Route x [B, T, D], layer-normed.

        Returns:
            expert: int32 [B, T], the lowest index on ties; -1 where the token was dropped.
            gate: float32 [B, T], the probability of the choice, whether dropped or not.

        Capacity is counted along each row, padding included, as transformers counts it.
        """
        probabilities = self.probabilities(x)                         # [B, T, E]
        choose = self.choose or (lambda given: given.argmax(-1))
        expert = choose(probabilities)                                # [B, T]
        gate = probabilities.gather(-1, expert[..., None])[..., 0]    # [B, T]
        if self.capacity.limit < 0:
            return expert.to(torch.int32), gate
        chosen = (expert[..., None] == torch.arange(self.num_experts)).to(torch.int32)
        place = (chosen.cumsum(1).to(torch.int32) * chosen).sum(-1)   # [B, T] 1-based queue place
        kept = torch.where(place > self.capacity.limit, -1, expert)
        return kept.to(torch.int32), gate


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """a [B, T, D] @ b [D, E], as one MatMul node: torch.export would spell it out."""
    if not tracing():
        return a @ b
    return torch.onnx.ops.symbolic(
        "::MatMul", (a, b), dtype=a.dtype, shape=(*a.shape[:-1], b.shape[-1])
    )
