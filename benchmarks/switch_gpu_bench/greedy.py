"""Greedy decoding with the kernels: encode, then one captured step after another."""

import torch
from torch import Tensor

from switch_gpu_bench.encode import encode
from switch_gpu_bench.ops import CudaOps
from switch_gpu_bench.step import Source, Step
from switch_gpu_bench.torch_ops import TorchOps
from switch_gpu_bench.weights import Stack


def pad(rows: list[list[int]], pad_id: int, device: str) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, int64 [B, S] each."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


@torch.inference_mode()
def generate(
    model: tuple[Stack, Stack], ops: CudaOps | TorchOps, rows: list[list[int]], tokens: int
) -> list[list[int]]:
    """Return at most `tokens` ids of each row, up to and with the end of the sequence."""
    encoder, decoder = model
    config = decoder.config
    device = decoder.parameters["norm.weight"].device
    ids, mask = pad(rows, config.pad_id, device)
    source = Source(encode(encoder, ops, ids, mask), mask)
    step = Step(decoder, ops, source, len(rows), tokens)
    run = step.capture()
    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    ends = torch.tensor(config.eos_ids, device=device)
    columns = []
    for _ in range(tokens):
        run()
        columns.append(torch.where(ended, config.pad_id, step.ids))
        ended |= torch.isin(step.ids, ends)
        if bool(ended.all()):
            break
    return [until_end(row, config.eos_ids) for row in torch.stack(columns, 1).tolist()]


def until_end(row: list[int], ends: tuple[int, ...]) -> list[int]:
    """Return a row up to and with its end."""
    for place, token in enumerate(row):
        if token in ends:
            return row[: place + 1]
    return row
