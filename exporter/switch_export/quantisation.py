"""What storing the weights costs: each block's output against that of the checkpoint's weights."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Decoder tokens per row.
TARGET = 4


def errors_by_block(
    stored: "dict[str, nn.Module]",
    exact: "dict[str, nn.Module]",
    batch: tuple[np.ndarray, np.ndarray],
    advance: Callable[[], None],
) -> dict[str, float]:
    """Feed the same tokens to two sets of modules and compare what their blocks give.

    Each decoder reads its own encoder's output, so that errors add up as they do in use. Routes
    may differ: that is part of what the precision costs.

    Args:
        stored, exact: `encoder` and perhaps `decoder`, with weights attached.
        batch: token ids and mask, [B, S].
        advance: called after each graph.

    Returns:
        |difference| / |exact| over the real tokens, by `encoder.0` ... `decoder.L`.
    """
    ids, mask = (torch.from_numpy(part) for part in batch)
    errors = {}
    crosses: list[list] = []
    for name in exact:
        runs = []
        for i, modules in enumerate((stored, exact)):
            run = _record(modules[name])
            with torch.no_grad():
                if name == "encoder":
                    outputs = modules[name](ids, mask)
                    crosses.append(list(outputs))
                else:
                    _decode(modules[name], ids[:, :TARGET], mask, crosses[i])
            runs.append(run())
        real = mask.bool() if name == "encoder" else slice(None)
        for i, (found, expected) in enumerate(zip(*runs, strict=True)):
            difference = (found[real] - expected[real]).norm() / expected[real].norm()
            errors[f"{name}.{i}"] = round(float(difference), 6)
        advance()
    return errors


def _decode(decoder: "nn.Module", ids: "Tensor", mask: "Tensor", cross: "list[Tensor]") -> None:
    """Read ids [B, T] at once, with nothing cached."""
    layers = len(decoder.blocks)
    shape = list(cross[0].shape)
    shape[2] = 1
    empty = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(layers)]
    pairs = [(cross[2 * i], cross[2 * i + 1]) for i in range(layers)]
    decoder(ids, torch.tensor(0), mask, empty, pairs)


def _record(module: "nn.Module") -> "Callable[[], list[Tensor]]":
    """Keep the residual stream after every block from now on, until the result is called."""
    kept: list[Tensor] = []

    def keep(_module, _arguments, output) -> None:
        stream = output[0] if isinstance(output[0], tuple) else output
        kept.append(stream[0] + stream[1])

    handles = [block.register_forward_hook(keep) for block in module.blocks]

    def stop() -> list:
        for handle in handles:
            handle.remove()
        return kept

    return stop
