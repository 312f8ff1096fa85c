"""weights.bin: the external data of both graphs, written tensor by tensor."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from switch_export.model.names import Stored
from switch_export.quantize import Precision

if TYPE_CHECKING:
    from torch import Tensor

    from switch_export.weights import Weight

#: Every tensor begins on a page, so that an engine can map it and a GPU can read it directly.
ALIGNMENT = 4096
_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in weights.bin; `type` is numpy's name of it."""

    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


class WeightFile:
    """The layout of weights.bin, and how to write it.

    Equal tensors are stored once, however many parameters use them. Memory while writing is one
    checkpoint tensor, whatever the size of the model.
    """

    def __init__(
        self, path: Path, weights: "dict[str, Weight]", wanted: list[Stored], precision: Precision
    ):
        self.path = path
        self._weights, self._precision = weights, precision
        self._places: dict[Stored, Place] = {}
        offset = 0
        for stored in dict.fromkeys(wanted):
            kind, shape = self._layout(stored)
            size = prod(shape) * _SIZES[kind]
            self._places[stored] = Place(kind, shape, offset, size)
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        self.bytes = offset

    def _layout(self, stored: Stored) -> tuple[str, tuple[int, ...]]:
        """Type and shape of a stored tensor."""
        shapes = [tuple(self._weights[name].shape) for name in stored.weights]
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if stored.form == "values":
            return self._precision.type, self._precision.values_shape(shape)
        return "float32", self._precision.scale_shape(shape) if stored.form == "scale" else shape

    def place(self, stored: Stored) -> Place:
        """Where `stored` lies."""
        return self._places[stored]

    def write(self, progress: Callable[[int, int], None]) -> None:
        """Write the file; `progress(bytes so far, bytes in all)` after every tensor."""
        done = 0
        with self.path.open("wb") as file:
            for stored, place in self._places.items():
                if stored.form == "scale":
                    continue  # written with its values
                ends = {stored: place.offset}
                scale = Stored(stored.weights, "scale")
                if scale in self._places:
                    ends[scale] = self._places[scale].offset
                for tensors in self._tensors(stored):
                    for key, tensor in zip(ends, tensors, strict=True):
                        count = _write_at(file, ends[key], tensor)
                        ends[key] += count
                        done += count
                    progress(done, self.bytes)
            file.truncate(self.bytes)
        progress(self.bytes, self.bytes)

    def _tensors(self, stored: Stored) -> "Iterator[tuple[Tensor, ...]]":
        """The tensors to write one after another: values and, if there are any, scales."""
        for name in stored.weights:
            weight = self._weights[name]
            for i, part in enumerate(weight.parts):
                tensor = weight.load_part(i)
                if stored.form == "exact":
                    yield (tensor,)
                else:
                    values, scale = self._precision.encode(tensor, part.name)
                    yield (values,) if scale is None else (values, scale)


def _write_at(file: BinaryIO, offset: int, tensor: "Tensor") -> int:
    """Write a tensor's bytes; numpy has no bfloat16, so that they are taken as bytes."""
    import torch

    data = tensor.contiguous().flatten().view(torch.uint8).numpy()
    file.seek(offset)
    file.write(memoryview(data))
    return data.nbytes
