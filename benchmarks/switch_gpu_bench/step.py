"""One decoder step made of the kernels, on buffers that stay where they are.

    embedding ─► x                                               float32 [R, 1, D], the residual
    each block:  linear(norm + qkv) ► cached_attention ► linear(o, x +=)               3 launches
                 linear(norm + q)   ► cross_attention  ► linear(o, x +=)               3
                 linear(norm + wi)  ► linear(wo, x +=)     or     router ► moe(x +=)   2, or 3 to 4
    linear(norm + head) ─► argmax ─► the next ids; position + 1
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from switch_gpu_bench import timing
from switch_gpu_bench.ops import Classifier, CudaOps, Experts, Mlp, Norm, Routes
from switch_gpu_bench.packed import FLOATS
from switch_gpu_bench.torch_ops import TorchOps
from switch_gpu_bench.weights import Stack


@dataclass(frozen=True)
class Source:
    """What a decoder reads of the encoder.

    Attributes:
        cross: keys and values of each block, [B, H, S, K].
        mask: int64 [B, S].
    """

    cross: list[tuple[Tensor, Tensor]]
    mask: Tensor


class Step:
    """A decoder with its caches for `rows` sequences of at most `capacity` tokens."""

    def __init__(
        self, stack: Stack, ops: CudaOps | TorchOps, source: Source, rows: int, capacity: int
    ):
        self.stack, self.ops, self.source, self.capacity = stack, ops, source, capacity
        config, self.dtype = stack.config, FLOATS[stack.precision.name]
        self.device = stack.parameters["norm.weight"].device
        self.bias = stack.bias()
        self.mlp = Mlp(config.activation, config.is_gated)
        inner = config.num_heads * config.d_kv
        made = self._empty
        self.x = made((rows, 1, config.d_model), torch.float32)
        self.qkv, self.mixed = made((rows, 1, 3 * inner)), made((rows, 1, inner))
        self.q, self.hidden = made((rows, 1, inner)), made((rows, config.d_ff))
        self.routes = Routes(
            made((rows, 1, config.d_model)), made((rows, 1), torch.int32),
            made((rows, 1), torch.float32),
        )
        self.logits = made((rows, config.vocab_size), torch.float32)
        shape = (rows, config.num_heads, capacity, config.d_kv)
        blocks = range(config.num_decoder_layers)
        self.caches = [(made(shape), made(shape)) for _ in blocks]
        self.ids = torch.empty(rows, dtype=torch.int64, device=self.device)
        self.position = torch.empty(1, dtype=torch.int64, device=self.device)
        # Of the scaled states, not of the weights: it is exact there.
        scale = config.d_model**-0.5 if config.tie_word_embeddings else 1.0
        self.last_norm = self._norm("norm.weight", scale)
        self.blocks = [_Block(self, i) for i in blocks]
        self.head = stack.weight("head.linear.weight")
        self.restart()

    def restart(self, position: int = 0) -> None:
        """Begin with the start token, or as if `position` tokens were there already."""
        self.ids.fill_(self.stack.config.decoder_start_id)
        self.position.fill_(position)

    def run(self) -> None:
        """Replace `ids` by the next ones; safe to capture."""
        table = self.stack.parameters["embedding.weight"]
        self.x.copy_(table.index_select(0, self.ids)[:, None])
        for block in self.blocks:
            block.run()
        rows = self.x[:, 0]
        self.ops.linear(rows, self.head, self.logits, self.last_norm)
        torch.argmax(self.logits, -1, out=self.ids)
        self.position.add_(1)

    def capture(self) -> Callable[[], None]:
        """Return what replays the graph of one step; the state is that of a restart."""
        replay = timing.capture(self.run)
        self.restart()
        return replay

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor.fill_(-1)

    def _norm(self, name: str, scale: float = 1.0) -> Norm:
        weight = self.stack.parameters[name] * scale
        return Norm(weight.contiguous(), self.stack.config.layer_norm_epsilon, self.dtype)


class _Block:
    """One decoder block: the calls of the drawing above."""

    def __init__(self, step: Step, index: int):
        name, stack = f"blocks.{index}", step.stack
        self.step, self.cache, self.cross = step, step.caches[index], step.source.cross[index]
        self.is_sparse = index in stack.config.sparse_decoder_layers
        self.norm = step._norm(f"{name}.attention.norm.weight")
        self.cross_norm = step._norm(f"{name}.cross.norm.weight")
        parts = ("attention.qkv", "attention.o", "cross.q", "cross.o")
        self.qkv, self.o, self.q, self.cross_o = (
            stack.weight(f"{name}.{part}.weight") for part in parts
        )
        kind, norm = ("experts", "router.norm") if self.is_sparse else ("dense", "norm")
        self.mlp_norm = step._norm(f"{name}.mlp.{norm}.weight")
        wi, wo = (stack.weight(f"{name}.mlp.{kind}.{part}") for part in ("wi", "wo"))
        self.experts = Experts(wi, wo, step.mlp)
        if self.is_sparse:
            router = f"{name}.mlp.router"
            self.classifier = Classifier(
                stack.parameters[f"{router}.weight"], stack.parameters.get(f"{router}.bias")
            )

    def run(self) -> None:
        s, ops = self.step, self.step.ops
        x, mixed = s.x[:, 0], s.mixed[:, 0]                           # [R, D], [R, H K]
        ops.linear(x, self.qkv, s.qkv[:, 0], self.norm)
        ops.cached_attention(s.qkv, *self.cache, s.position, s.bias, s.mixed)
        ops.linear(mixed, self.o, x, accumulate=True)
        ops.linear(x, self.q, s.q[:, 0], self.cross_norm)
        ops.cross_attention(s.q, *self.cross, s.source.mask, s.mixed)
        ops.linear(mixed, self.cross_o, x, accumulate=True)
        if self.is_sparse:
            ops.router(s.x, self.mlp_norm, self.classifier, s.routes)
            routes = s.routes
            ops.moe(
                routes.normed[:, 0], routes.expert[:, 0], routes.gate[:, 0], self.experts, x, True
            )
        else:
            ops.linear(x, self.experts.wi, s.hidden, self.mlp_norm, s.mlp)
            ops.linear(s.hidden, self.experts.wo, x, accumulate=True)
