"""Lazy readers of checkpoint files: tensors that are read from the mapped file when asked for."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from switch_export.checkpoint import WEIGHT_FILES, find_weights
from switch_export.errors import UnsupportedCheckpoint, listing

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
#: The types of a weight; every value of them is a float32, or is refused.
FLOATS = tuple(DTYPES.values())


@dataclass(frozen=True)
class LazyTensor:
    """One tensor of a checkpoint.

    Attributes:
        dtype: torch's name of it; anything else as the file calls it.
        file: name of the file it is in.
        read: gives it as stored: any strides, its storage perhaps shared with other tensors.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str
    read: "Callable[[], Tensor]"


#: Lists the tensors of one file; what is wrong with it goes to the list of problems.
OpenFile = Callable[[Path, list[str]], dict[str, LazyTensor]]


def open_tensors(
    path: Path, name: str, open_one: OpenFile | None = None
) -> dict[str, LazyTensor]:
    """List the tensors of the checkpoint in directory `path`, whichever format it has.

    Args:
        name: of the checkpoint, for the error.
        open_one: how a file is opened; None is `open_file`, whose tensors can be read.

    Raises:
        UnsupportedCheckpoint: with everything that is wrong with the files.
    """
    open_one = open_one or open_file
    chosen = find_weights(path)
    if chosen is None:
        raise UnsupportedCheckpoint(
            f"{name} cannot be exported: no weights in {path}, expected one of "
            f"{', '.join(WEIGHT_FILES)}"
        )
    problems: list[str] = []
    if chosen.name.endswith(".index.json"):
        tensors = _sharded(chosen, open_one, problems)
    else:
        tensors = open_one(chosen, problems)
    if problems:
        raise UnsupportedCheckpoint(listing(f"{name} cannot be exported:", problems))
    return tensors


def _sharded(
    index: Path, open_one: OpenFile, problems: list[str]
) -> dict[str, LazyTensor]:
    """The union of the shards, checked against the index in both directions."""
    weight_map = _weight_map(index, problems)
    tensors: dict[str, LazyTensor] = {}
    unreadable = set()
    for shard in sorted(set(weight_map.values())):
        before = len(problems)
        path = index.parent / shard
        if Path(shard).name != shard:
            problems.append(f"{index.name} names {shard!r}, expected a file beside it")
        elif not path.is_file():
            problems.append(f"{shard} is missing, {index.name} names it")
        else:
            for name, tensor in open_one(path, problems).items():
                if weight_map.get(name) != shard:
                    problems.append(f"{shard} holds {name}, not placed there by {index.name}")
                tensors[name] = tensor
        if len(problems) > before:
            unreadable.add(shard)
    for name, shard in weight_map.items():
        if name not in tensors and shard not in unreadable:
            problems.append(f"{shard} does not hold {name}, placed there by {index.name}")
    return tensors


def _weight_map(index: Path, problems: list[str]) -> dict[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise TypeError("weight_map is not an object of file names")
    except (ValueError, KeyError, TypeError, OSError) as error:
        problems.append(f"{index.name} cannot be read: {type(error).__name__}: {error}")
        return {}
    if not found:
        problems.append(f"{index.name} lists no tensors")
    return found


def open_file(path: Path, problems: list[str]) -> dict[str, LazyTensor]:
    """List the tensors of one file; what is wrong with it goes to `problems`."""
    read = _safetensors if path.suffix == ".safetensors" else _bin
    try:
        tensors = read(path, problems)
    except Exception as error:  # the formats' libraries raise whatever they come across
        text = str(error).strip().split("\n")[0]
        problems.append(
            f"{path.name} cannot be read ({path.stat().st_size} bytes; truncated, or not in the "
            f"format of its name): {type(error).__name__}: {text}"
        )
        return {}
    if not tensors and not problems:
        problems.append(f"{path.name} holds no tensors")
    return tensors


def _safetensors(path: Path, _problems: list[str]) -> dict[str, LazyTensor]:
    from safetensors import safe_open

    # Never closed: its mapping lives as long as a LazyTensor does, and costs no memory.
    file = safe_open(path, framework="pt")
    tensors = {}
    for name in file.keys():  # noqa: SIM118 - not a dict
        piece = file.get_slice(name)
        dtype = DTYPES.get(piece.get_dtype(), piece.get_dtype())
        tensors[name] = LazyTensor(
            name, tuple(piece.get_shape()), dtype, path.name, _bind(file.get_tensor, name)
        )
    return tensors


def _bin(path: Path, problems: list[str]) -> dict[str, LazyTensor]:
    import torch

    # torch maps its zip container; the format before it (torch < 1.6) is read whole.
    mapped = zipfile.is_zipfile(path)
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    if not isinstance(state, dict):
        problems.append(f"{path.name} holds a {type(state).__name__}, expected a dict of tensors")
        return {}
    tensors = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            kind = type(value).__name__ if not isinstance(value, torch.Tensor) else value.layout
            problems.append(f"{path.name} holds {name!r} ({kind}), expected a dense tensor")
            continue
        tensor = value.detach()
        dtype = str(tensor.dtype).removeprefix("torch.")
        tensors[name] = LazyTensor(
            name, tuple(tensor.shape), dtype, path.name, _bind(state.__getitem__, name)
        )
    return tensors


def _bind(read: Callable[[str], Any], name: str) -> "Callable[[], Tensor]":
    return lambda: read(name).detach()
