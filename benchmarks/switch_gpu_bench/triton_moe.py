"""A fused MoE in Triton in the style of vLLM's: a peer of the benchmarks, not part of the plugin.

    expert [T] ─► align: sorted token ids, each expert's padded to blocks of BLOCK_M
    x ─► grouped(wi, relu) ─► hidden, in the order of tokens ─► grouped(wo, gate) ─► y

One program makes one block of outputs [BLOCK_M tokens of one expert, BLOCK_N]; ids of padding are
`tokens` or more, and blocks beyond the last one end at once.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """Block sizes, by the number of tokens for each expert."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    blocks: int  # of sorted ids, at most


def plan(tokens: int, experts: int) -> Plan:
    """Choose as vLLM's defaults do: small blocks where experts get few tokens."""
    if tokens <= experts:
        sizes = (16, 32, 256, 4, 4) if tokens <= 32 else (16, 64, 128, 4, 4)
    elif tokens // experts <= 32:
        sizes = (32, 64, 128, 4, 4)
    elif tokens // experts <= 128:
        sizes = (64, 128, 64, 4, 4)
    else:
        sizes = (128, 256, 64, 8, 3)
    block_m = sizes[0]
    used = min(tokens, experts)
    return Plan(*sizes, blocks=(tokens + used * (block_m - 1) + block_m - 1) // block_m)


class Buffers:
    """What the kernels pass on."""

    def __init__(self, tokens: int, d_ff: int, plan: Plan, like: Tensor):
        device = like.device
        self.hidden = torch.empty(tokens, d_ff, dtype=like.dtype, device=device)
        self.ids = torch.empty(plan.blocks * plan.block_m, dtype=torch.int32, device=device)
        self.block_expert = torch.empty(plan.blocks, dtype=torch.int32, device=device)


def align(expert: Tensor, experts: int, plan: Plan, buffers: Buffers) -> None:
    """Sort tokens by expert, each expert's padded to whole blocks; no size leaves the device."""
    device, tokens = expert.device, len(expert)
    numbers = torch.arange(experts, device=device, dtype=torch.int32)
    placed, order = torch.sort(expert, stable=True)
    ends = torch.searchsorted(placed, numbers, right=True)            # [E]
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    blocks = (counts + plan.block_m - 1) // plan.block_m
    block_ends = blocks.cumsum(0)                                     # [E]
    chosen = placed.long()
    shift = (block_ends - blocks) * plan.block_m - (ends - counts)    # [E] place - sorted place
    buffers.ids.fill_(tokens)
    place = torch.arange(tokens, device=device) + shift[chosen]
    buffers.ids[place] = order.to(torch.int32)
    every = torch.arange(plan.blocks, device=device)
    owner = torch.searchsorted(block_ends, every, right=True)
    buffers.block_expert.copy_(torch.where(every < block_ends[-1], owner, -1))


@triton.jit
def _grouped(
    x, w, y, gate, ids, block_expert, tokens, columns: tl.constexpr, rows: tl.constexpr,
    is_first: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):
    block = tl.program_id(1)
    index = tl.load(block_expert + block)
    if index < 0:
        return
    id_ = tl.load(ids + block * block_m + tl.arange(0, block_m))      # [M]
    is_token = id_ < tokens
    n = tl.program_id(0) * block_n + tl.arange(0, block_n)            # [N]
    k = tl.arange(0, block_k)                                         # [K]
    from_x = x + id_[:, None].to(tl.int64) * columns + k[None, :]
    from_w = w + index.to(tl.int64) * rows * columns + n[None, :] * columns + k[:, None]
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for _ in range(0, columns, block_k):
        a = tl.load(from_x, mask=is_token[:, None], other=0.0)
        b = tl.load(from_w)
        total = tl.dot(a, b, total)
        from_x += block_k
        from_w += block_k
    if is_first:
        total = tl.maximum(total, 0.0)
    else:
        total = total * tl.load(gate + id_, mask=is_token, other=0.0)[:, None]
    to_y = y + id_[:, None].to(tl.int64) * rows + n[None, :]
    tl.store(to_y, total.to(y.dtype.element_ty), mask=is_token[:, None])


def run(x: Tensor, gate: Tensor, weights: tuple[Tensor, Tensor], y: Tensor, state: tuple) -> None:
    """x [T, D], gate [T], weights wi [E, F, D] and wo [E, D, F] -> y [T, D]; sizes in blocks."""
    plan, buffers = state
    for number, (a, w, out) in enumerate(
        ((x, weights[0], buffers.hidden), (buffers.hidden, weights[1], y))
    ):
        _, rows, columns = w.shape
        _grouped[(rows // plan.block_n, plan.blocks)](
            a, w, out, gate, buffers.ids, buffers.block_expert, len(x), columns, rows,
            is_first=number == 0, block_m=plan.block_m, block_n=plan.block_n,
            block_k=plan.block_k, num_warps=plan.warps, num_stages=plan.stages,
        )
