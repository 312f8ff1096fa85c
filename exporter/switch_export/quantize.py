"""How weights are stored: float32 <-> the types and scales of docs/operators.md.

One checkpoint tensor at a time, so that memory does not grow with the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from switch_export.errors import ExportError
from switch_plugins import spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PRECISIONS = tuple(spec.WEIGHT_TYPES)
#: The block of a quantised precision where none is asked for; 0 is one scale for each output.
DEFAULT_BLOCKS = {"int8": 0, "int4": 32}
BLOCK_UNIT = 32
#: Candidates for the scale of an int4 block, as parts of the one that loses no range. Values
#: beyond the range are clipped: what that costs at the ends, the finer steps repay in the middle.
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8)
#: Values that int4 works on at once, so that they stay in the processor's cache.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Precision:
    """The type of the weights, and how many inputs share a scale (0: all of an output).

    Attributes:
        rounds_tokens: False leaves out the rounding of tokens in products with quantised weights.
    """

    name: str = "fp32"
    block: int = 0
    rounds_tokens: bool = True

    @property
    def is_quantised(self) -> bool:
        """Whether weights have scales, and products quantise each token."""
        return self.name in spec.QUANTISED

    @property
    def type(self) -> str:
        """The stored type, by numpy's and torch's common name."""
        return spec.WEIGHT_TYPES[self.name]

    def values_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the stored values of a weight [..., O, I]."""
        return (*shape[:-1], shape[-1] // 2) if self.name == "int4" else tuple(shape)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scales of a weight [..., O, I], where it is quantised."""
        return (*shape[:-1], ceil(shape[-1] / self.block)) if self.block else tuple(shape[:-1])

    def encode(self, weight: "Tensor", name: str) -> "tuple[Tensor, Tensor | None]":
        """Encode a weight.

        Args:
            weight: float32 [O, I].
            name: of the checkpoint's tensor, for the error.

        Returns:
            the values as they are stored, and the scales (None where there are none).

        Raises:
            ExportError: the type cannot hold the weight.
        """
        if not self.is_quantised:
            return _round_to(weight, self.type, name), None
        if self.name == "int4" and weight.shape[-1] % 2:
            raise ExportError(
                f"{name} has {weight.shape[-1]} inputs, expected an even number: int4 keeps two "
                "in a byte. Export with --precision int8"
            )
        if self.name == "int8" and not self.block:
            values, scale = _int8(weight)
            return values, scale[..., 0]
        code = _int4 if self.name == "int4" else _int8
        return _by_block(weight, self.block or weight.shape[-1], code, self)

    def decode(self, values: "Tensor", scale: "Tensor | None") -> "Tensor":
        """The float32 weight [O, I] that stored values [O, I] (int4: [O, I / 2]) stand for."""
        import torch

        if self.name == "int4":
            values = torch.stack((values & 15, values >> 4), -1).flatten(-2)
            values = values.to(torch.float32) - 8
        values = values.to(torch.float32)
        if scale is None:
            return values
        if not self.block:
            return values * scale[..., None]
        return values * scale.repeat_interleave(self.block, -1)[..., : values.shape[-1]]

    def round_trip(self, weight: "Tensor", name: str) -> "Tensor":
        """What remains of a float32 weight [O, I] once it has been stored."""
        return weight if self.name == "fp32" else self.decode(*self.encode(weight, name))


def find_precision(name: str, block: int | None) -> Precision:
    """The precision that the options ask for.

    Raises:
        ExportError: with what is wrong with the block.
    """
    if block is None:
        return Precision(name, DEFAULT_BLOCKS.get(name, 0))
    if name not in spec.QUANTISED:
        raise ExportError(
            f"block is {block}, but {name} has no scales: blocks are for "
            f"{' and '.join(spec.QUANTISED)}; leave it out"
        )
    if block and (block < BLOCK_UNIT or block & (block - 1)):
        raise ExportError(
            f"block is {block}, expected 0 (one scale for each output) or a power of two from "
            f"{BLOCK_UNIT} on"
        )
    return Precision(name, block)


def _round_to(weight: "Tensor", kind: str, name: str) -> "Tensor":
    import torch

    dtype = getattr(torch, kind)
    if kind == "float32":
        return weight
    largest, limit = float(weight.abs().max()), torch.finfo(dtype).max
    if largest > limit:
        other = "bf16" if kind == "float16" else "fp32"
        raise ExportError(
            f"{name} holds {largest:.6g}, expected at most {limit:.6g}, which is as far as {kind} "
            f"reaches. Export with --precision {other}"
        )
    return weight.to(dtype)


def _int8(blocks: "Tensor") -> "tuple[Tensor, Tensor]":
    """blocks [..., b] -> int8 values [..., b] and their scales [..., 1]."""
    import torch

    scale = blocks.abs().amax(-1, keepdim=True) / 127
    scale = torch.where(scale > 0, scale, torch.ones(()))  # all zeros: any scale will do
    return (blocks / scale).round_().clamp_(-127, 127).to(torch.int8), scale


def _int4(blocks: "Tensor") -> "tuple[Tensor, Tensor]":
    """blocks [..., b] -> codes 0 to 15 [..., b] and the best of some scales for them [..., 1].

    Half the candidates give the largest magnitude 7 steps, half give it 8 and the sign that
    code 0, which is -8, can hold.
    """
    import torch

    peak = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))   # [..., 1], with its sign
    best = torch.full_like(peak, float("inf"))
    scale = torch.ones_like(peak)
    for full in (peak.abs() / 7, peak / -8):
        for part in _SHRINK:
            candidate = torch.where(full == 0, 1.0, full * part)
            steps = (blocks / candidate).round_().clamp_(-8, 7)
            error = steps.mul_(candidate).sub_(blocks).square_().sum(-1, keepdim=True)
            better = error < best
            best = torch.where(better, error, best)
            scale = torch.where(better, candidate, scale)
    codes = (blocks / scale).round_().clamp_(-8, 7) + 8
    return codes.to(torch.uint8), scale


def _by_block(weight: "Tensor", block: int, code, precision: Precision):
    """Encode [O, I] in blocks of the input axis, some rows at a time."""
    import torch

    values, scales = [], []
    for rows in _row_chunks(weight):
        count, inputs = rows.shape
        padded = torch.nn.functional.pad(rows, (0, -inputs % block))
        coded, scale = code(padded.reshape(count, -1, block))
        flat = coded.flatten(1)[:, :inputs]
        values.append(flat[:, 0::2] | flat[:, 1::2] << 4 if precision.name == "int4" else flat)
        scales.append(scale[..., 0])
    scale = torch.cat(scales)
    return torch.cat(values), scale if precision.block else scale[:, 0]


def _row_chunks(weight: "Tensor") -> "Iterator[torch.Tensor]":
    yield from weight.split(max(1, _CHUNK // weight.shape[-1]))
