"""weights.bin: the external data of both graphs, written tensor by tensor."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from switch_export.model.names import Stored

if TYPE_CHECKING:
    from torch import Tensor

    from switch_export.weights import Weight

#: Every tensor begins on a page, so that an engine can map it and a GPU can read it directly.
ALIGNMENT = 4096
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in weights.bin."""

    shape: tuple[int, ...]
    offset: int
    bytes: int


class WeightFile:
    """The layout of weights.bin, and how to write it.

    Each (checkpoint weight, transposed) pair is stored once, however many parameters use it. Memory
    while writing is one checkpoint tensor, whatever the size of the model.
    """

    def __init__(self, path: Path, weights: "dict[str, Weight]", wanted: list[Stored]):
        self.path = path
        self._weights = weights
        self._places: dict[Stored, Place] = {}
        offset = 0
        for stored in dict.fromkeys(wanted):
            shape = tuple(weights[stored.name].shape)
            if stored.transposed:
                shape = shape[::-1]
            size = prod(shape) * FLOAT32_BYTES
            self._places[stored] = Place(shape, offset, size)
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        self.bytes = offset

    def place(self, stored: Stored) -> Place:
        """Where `stored` lies."""
        return self._places[stored]

    def write(self, progress: Callable[[int, int], None]) -> None:
        """Write the file; `progress(bytes so far, bytes in all)` after every tensor."""
        with self.path.open("wb") as file:
            for stored, place in self._places.items():
                file.seek(place.offset)
                for tensor in self._tensors(stored):
                    file.write(memoryview(tensor.numpy()).cast("B"))
                    progress(file.tell(), self.bytes)
            file.truncate(self.bytes)
        progress(self.bytes, self.bytes)

    def _tensors(self, stored: Stored) -> "Iterator[Tensor]":
        weight = self._weights[stored.name]
        if len(weight.parts) > 1 or len(weight.shape) == 3:
            for i in range(len(weight.parts)):
                yield weight.load_part(i).contiguous()
        else:
            tensor = weight.load()
            yield (tensor.T if stored.transposed else tensor).contiguous()
