"""The headers of a checkpoint's files: names, shapes, types and places, without torch."""

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from switch_export.checkpoint import find_weights
from switch_export.readers import DTYPES, LazyTensor, open_tensors

_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_CHUNK = 1 << 22
_WIDEST = 100_000_000  # of a header, as the format's own library has it


@dataclass(frozen=True)
class Headers:
    """The tensors of a checkpoint.

    Attributes:
        places: name -> file, first byte and end; of a .bin file, its address in the mapping.
    """

    tensors: dict[str, LazyTensor]
    places: dict[str, tuple[Path | None, int, int]]

    def size(self, name: str) -> int:
        """Bytes that a tensor takes."""
        _, begin, end = self.places[name]
        return end - begin

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors have the same type, shape and bytes; reads them."""
        first, second = self.tensors[one], self.tensors[other]
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            return False
        (file, begin, end), (other_file, other_begin, _) = self.places[one], self.places[other]
        if (file, begin) == (other_file, other_begin):
            return True
        if file is None or other_file is None:
            import torch

            return torch.equal(first.read(), second.read())
        with file.open("rb") as left, other_file.open("rb") as right:
            left.seek(begin)
            right.seek(other_begin)
            for start in range(0, end - begin, _CHUNK):
                count = min(_CHUNK, end - begin - start)
                if left.read(count) != right.read(count):
                    return False
        return True


def read_headers(path: Path) -> Headers:
    """List the tensors of the checkpoint in a directory.

    Raises:
        UnsupportedCheckpoint: with everything that is wrong with the files.
    """
    chosen = find_weights(path)
    if chosen is None:
        return Headers({}, {})
    if ".bin" in chosen.name:
        tensors = open_tensors(path, str(path))  # pickles: torch alone can say
        places = {}
        for name, tensor in tensors.items():
            value = tensor.read()
            places[name] = (None, value.data_ptr(), value.data_ptr() + value.nbytes)
        return Headers(tensors, places)
    places = {}

    def parse(file: Path, problems: list[str]) -> dict[str, LazyTensor]:
        try:
            found = _parse(file)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            problems.append(f"{file.name} cannot be read (truncated, or not in the format of its "
                            f"name): {error}")
            return {}
        if not found.tensors:
            problems.append(f"{file.name} holds no tensors")
        places.update(found.places)
        return found.tensors

    return Headers(open_tensors(path, str(path), parse), places)


def _parse(file: Path) -> Headers:
    """Read the JSON at the beginning of a safetensors file."""
    size = file.stat().st_size
    if size < 8:
        raise ValueError(f"it has {size} bytes")
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(_WIDEST, size - 8):
            raise ValueError(f"its header should have {length} bytes, the file has {size}")
        header: dict[str, Any] = json.loads(stream.read(length))
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        raise ValueError("its header is not an object of objects")
    header.pop("__metadata__", None)
    headers = Headers({}, {})
    base, last = 8 + length, 8 + length
    for name, entry in header.items():
        begin, end = (base + offset for offset in entry["data_offsets"])
        dtype, shape = DTYPES.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"])
        if not all(type(size) is int and size >= 0 for size in (*shape, begin - base, end - begin)):
            raise ValueError(f"{name} has shape {shape} and bytes from {begin} to {end}")
        if prod(shape) * _BYTES.get(dtype, 0) not in (0, end - begin):
            raise ValueError(f"{name} {list(shape)} of {dtype} takes {end - begin} bytes")
        headers.tensors[name] = LazyTensor(name, shape, dtype, file.name, _never)
        headers.places[name] = (file, begin, end)
        last = max(last, end)
    if last != size:
        raise ValueError(f"its tensors end at {last}, the file has {size} bytes")
    return headers


def _never() -> Any:
    raise AssertionError("a header has no values")
