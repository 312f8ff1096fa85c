"""Weights as kernels take them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from switch_export.quantize import Precision

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PRECISION_OF = {dtype: name for name, dtype in FLOATS.items()}


@dataclass(frozen=True)
class Packed:
    """A stack of matrices in nn.Linear layout: docs/operators.md, "Weights".

    Attributes:
        values: [count, rows, columns]; int4: uint8 [count, rows, columns / 2].
        scale: quantised only: float32 [count, rows], with a block [count, rows, blocks].
    """

    values: Tensor
    scale: Tensor | None
    precision: Precision

    @property
    def columns(self) -> int:
        """Inputs of a product."""
        return self.values.shape[-1] * (2 if self.precision.name == "int4" else 1)

    @property
    def bytes_each(self) -> int:
        """Bytes of one matrix, scales included."""
        size = self.values[0].numel() * self.values.element_size()
        return size + (0 if self.scale is None else self.scale[0].numel() * 4)

    def decoded(self, index: int, dtype: torch.dtype) -> Tensor:
        """What the matrix `index` stands for, [rows, columns]."""
        scale = None if self.scale is None else self.scale[index]
        if scale is None:
            return self.values[index].to(dtype)
        return self.precision.decode(self.values[index], scale).to(dtype)


def pack(weight: Tensor, precision: Precision) -> Packed:
    """Encode float32 [count, rows, columns] as the exporter stores it."""
    encoded = [precision.encode(matrix, "weight") for matrix in weight]
    scale = None
    if precision.is_quantised:
        scale = torch.stack([scale for _, scale in encoded]).contiguous()
    return Packed(torch.stack([values for values, _ in encoded]).contiguous(), scale, precision)


def random_stack(shape: tuple[int, ...], precision: Precision, seed: int, device: str) -> Packed:
    """Make random weights whose products with values of deviation 1 have about deviation 1.

    Quantised ones are codes and scales at once: nothing of float32's size is ever there.
    """
    generator = torch.Generator(device).manual_seed(seed)
    deviation = shape[-1] ** -0.5
    if not precision.is_quantised:
        values = torch.empty(shape, dtype=FLOATS[precision.name], device=device)
        return Packed(values.normal_(0, deviation, generator=generator), None, precision)
    is_int4 = precision.name == "int4"
    limits, dtype = ((0, 256), torch.uint8) if is_int4 else ((-127, 128), torch.int8)
    stored = precision.values_shape(shape)
    values = torch.randint(*limits, stored, generator=generator, dtype=dtype, device=device)
    scale = torch.rand(precision.scale_shape(shape), generator=generator, device=device) + 0.5
    spread = 4.6 if is_int4 else 73.0  # deviation of the codes
    return Packed(values, scale * (deviation / spread), precision)
