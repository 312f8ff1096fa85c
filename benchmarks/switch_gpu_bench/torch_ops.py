"""The kernels' operators in plain PyTorch: docs/operators.md in one dtype, float64 for tests.

On any device. What the kernels round on the way (hidden values, normed values, outputs) is rounded
here too; sums are in the dtype.
"""

import torch
from torch import Tensor

from switch_export.model.layers import ACTIVATIONS
from switch_gpu_bench.ops import Classifier, Experts, Mlp, Norm, Routes
from switch_gpu_bench.packed import Packed


class TorchOps:
    """The methods of ops.CudaOps."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        self.dtype = dtype

    def _norm(self, x: Tensor, norm: Norm) -> Tensor:
        wide = x.to(self.dtype)
        mean = wide.pow(2).mean(-1, keepdim=True)
        return (wide / torch.sqrt(mean + norm.epsilon) * norm.weight.to(self.dtype)).to(norm.dtype)

    def _product(self, x: Tensor, weight: Packed, index: int) -> Tensor:
        """x [tokens, I] @ weight[index]^T; each token as int8 where weights are quantised."""
        matrix = weight.decoded(index, self.dtype)
        if not weight.precision.is_quantised:
            return x.to(self.dtype) @ matrix.T
        values = x.to(torch.float32)
        peak = values.abs().amax(-1, keepdim=True).clamp(min=1e-30)
        rounded = torch.round(values * (torch.full_like(peak, 127) / peak)).to(self.dtype)
        return (rounded @ matrix.T) * (peak / 127).to(self.dtype)

    def linear(
        self, x: Tensor, weight: Packed, y: Tensor, norm: Norm | None = None,
        mlp: Mlp | None = None, accumulate: bool = False,
    ) -> None:
        """See ops.CudaOps."""
        product = self._product(x if norm is None else self._norm(x, norm), weight, 0)
        _write(y, product if mlp is None else _activate(product, mlp), accumulate)

    def router(self, x: Tensor, norm: Norm, classifier: Classifier, routes: Routes) -> None:
        """See ops.CudaOps. The routes are those of the rounded normed values."""
        routes.normed.copy_(self._norm(x, norm))
        logits = routes.normed.to(self.dtype) @ classifier.weight.to(self.dtype).T
        if classifier.bias is not None:
            logits = logits + classifier.bias.to(self.dtype)
        probability, chosen = torch.softmax(logits, -1).max(-1)       # [B, T]
        routes.gate.copy_(probability.to(routes.normed.dtype))
        if classifier.capacity >= 0:
            one_hot = torch.nn.functional.one_hot(chosen, len(classifier.weight))
            place = (one_hot.cumsum(1) * one_hot).sum(-1)             # [B, T], from 1
            chosen = torch.where(place > classifier.capacity, -1, chosen)
        routes.expert.copy_(chosen)

    def moe(
        self, x: Tensor, expert: Tensor | None, gate: Tensor | None, experts: Experts, y: Tensor,
        accumulate: bool = False,
    ) -> None:
        """See ops.CudaOps."""
        tokens = len(x)
        expert = torch.zeros(tokens, dtype=torch.int32) if expert is None else expert.cpu()
        gate = torch.ones(tokens, device=x.device) if gate is None else gate
        result = torch.zeros(y.shape, dtype=self.dtype, device=x.device)
        for index in expert.unique().tolist():
            rows = (expert == index).to(x.device)
            if index >= 0:
                hidden = _activate(self._product(x[rows], experts.wi, index), experts.mlp)
                result[rows] = self._product(hidden.to(x.dtype), experts.wo, index)
            elif experts.mlp.dropped == "pass":
                result[rows] = x[rows].to(self.dtype)
        _write(y, result * gate[:, None].to(self.dtype), accumulate)

    def cached_attention(
        self, qkv: Tensor, key: Tensor, value: Tensor, position: Tensor, bias: Tensor, y: Tensor
    ) -> None:
        """See ops.CudaOps."""
        rows, tokens, _ = qkv.shape
        _, heads, capacity, size = key.shape
        q, k, v = qkv.view(rows, tokens, 3, heads, size).permute(2, 0, 3, 1, 4)
        query = position + torch.arange(tokens, device=qkv.device)    # [T]
        key[:, :, query], value[:, :, query] = k, v
        place = torch.arange(capacity, device=qkv.device)
        distance = len(bias) // 2
        relative = (place[None] - query[:, None]).clamp(-distance, distance) + distance
        scores = q.to(self.dtype) @ key.to(self.dtype).transpose(-1, -2)
        scores = scores + bias[relative].permute(2, 0, 1).to(self.dtype)
        allowed = place[None] <= query[:, None]                       # [T, C]
        _write(y, _mix(scores, value, allowed), False)

    def cross_attention(
        self, q: Tensor, key: Tensor, value: Tensor, mask: Tensor, y: Tensor
    ) -> None:
        """See ops.CudaOps."""
        batch, heads, _, size = key.shape
        queries = q.view(batch, -1, heads, size).transpose(1, 2)      # [B, H, beams * T, K]
        scores = queries.to(self.dtype) @ key.to(self.dtype).transpose(-1, -2)
        mixed = _mix(scores, value, mask[:, None, None] != 0)
        _write(y, mixed.reshape(q.shape), False)


def _activate(hidden: Tensor, mlp: Mlp) -> Tensor:
    act = ACTIVATIONS[mlp.activation]
    if not mlp.is_gated:
        return act(hidden)
    first, second = hidden.chunk(2, -1)
    return act(first) * second


def _mix(scores: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """Scores [R, H, T, S], value [R, H, S, K] -> [R, T, H K]."""
    scores = scores.masked_fill(~allowed, torch.finfo(torch.float32).min)
    held = value.to(scores.dtype).masked_fill(~allowed.any(-2)[..., None], 0)  # may be unset
    if not bool(allowed.any(-1).all()):
        held = value.to(scores.dtype)  # a row without keys is the mean of all
    return (torch.softmax(scores, -1) @ held).transpose(1, 2).flatten(2)


def _write(y: Tensor, result: Tensor, accumulate: bool) -> None:
    if accumulate:
        y.copy_(y.to(result.dtype) + result)
    else:
        y.copy_(result)
