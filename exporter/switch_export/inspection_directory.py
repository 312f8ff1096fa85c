"""What a model directory is, from switch.json and the headers of its graphs."""

import json
from math import prod
from pathlib import Path
from typing import Any

from switch_export.directory import DESCRIPTION
from switch_export.export import FORMAT
from switch_export.inspection import PARTS, Count, Inspection

_ORIGIN = (
    "format", "producer", "source", "target", "precision", "block", "verification", "files",
)


def inspect_directory(path: Path) -> Inspection:
    """Say what a model directory is, and what keeps it from being loaded."""
    problems: list[str] = []
    described = _read(path, problems)
    if described:
        problems += _check_files(path, described)
    parts, types = _count(path, described, problems)
    tokenizer = described.get("tokenizer")
    return Inspection(
        path=path, kind="model directory", task=described.get("task"), parts=parts, types=types,
        model=_object(described, "model"), capacity=_object(described, "capacity"),
        tokens=_object(described, "tokens"), generation=_object(described, "generation"),
        tokenizer=tokenizer.get("file") if isinstance(tokenizer, dict) else None,
        origin={name: described[name] for name in _ORIGIN if name in described},
        problems=problems,
    )


def _object(described: dict[str, Any], name: str) -> dict[str, Any]:
    found = described.get(name)
    return found if isinstance(found, dict) else {}


def _read(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        found = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{DESCRIPTION} cannot be read: {error}")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{DESCRIPTION} is not a JSON object")
        return {}
    if not isinstance(found.get("format"), int) or found["format"] > FORMAT:
        problems.append(
            f"format is {found.get('format')!r}, this version knows formats up to {FORMAT}"
        )
    return found


def _check_files(path: Path, described: dict[str, Any]) -> list[str]:
    """Presence and size of every file; what is in them is switch-export's and the runtime's."""
    problems = []
    files = _object(described, "files")
    if not files:
        problems.append("files is empty or missing, expected every file of the directory")
    for name, entry in files.items():
        size = entry.get("size") if isinstance(entry, dict) else None
        if not (path / name).is_file():
            problems.append(f"{name} is missing")
        elif (path / name).stat().st_size != size:
            found = (path / name).stat().st_size
            problems.append(f"{name} has {found} bytes, {DESCRIPTION} says {size}")
    return problems


def _count(path: Path, described: dict[str, Any], problems: list[str]):
    """Count each tensor of weights.bin once, by the graphs that use it."""
    found: dict[str, Count] = {}
    types: dict[str, Count] = {}
    seen = set()
    packed = described.get("precision") == "int4"
    for name in ("encoder.onnx", "decoder.onnx"):
        if not (path / name).is_file():
            continue
        try:
            tensors = list(_tensors(path / name))
        except Exception as error:  # protobuf's errors are its own
            problems.append(f"{name} cannot be read: {type(error).__name__}: {error}")
            continue
        for tensor, kind, shape, offset, size in tensors:
            if offset in seen:
                continue
            seen.add(offset)
            count = 0 if tensor.endswith("scale") else prod(shape)
            count *= 2 if packed and kind == "uint8" else 1
            part = _part(tensor)
            found[part] = found.get(part, Count()).plus(count, size)
            types[kind] = types.get(kind, Count()).plus(count, size)
    return {part: found[part] for part in PARTS if part in found}, types


def _tensors(file: Path):
    """Name, type, shape, offset and bytes of each tensor that a graph takes from weights.bin."""
    import onnx

    for tensor in onnx.load(file, load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if "offset" in place:
            kind = onnx.helper.tensor_dtype_to_string(tensor.data_type).rpartition(".")[2]
            kind = {"float": "float32"}.get(kind.lower(), kind.lower())
            yield tensor.name, kind, tuple(tensor.dims), int(place["offset"]), int(place["length"])


def _part(name: str) -> str:
    """The part that an initializer belongs to, by the names of the modules."""
    if ".norm." in name or "router." in name or name.startswith(("norm.", "position.")):
        return PARTS[-2]
    words = {"experts": "experts", "dense": "dense MLPs", "attention": "attention",
             "cross": "attention", "head": "head", "embedding": "embeddings"}
    return next((words[word] for word in name.split(".") if word in words), PARTS[-2])
