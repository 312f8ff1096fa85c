"""What a checkpoint is, what an export of it writes, and what would refuse it."""

import json
import tempfile
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

from switch_export import weights as tables
from switch_export.checkpoint import Checkpoint, choose_task, open_checkpoint
from switch_export.config import SwitchConfig
from switch_export.errors import ExportError, UnsupportedCheckpoint
from switch_export.generation import TOKEN_IDS, defaults_for, named
from switch_export.headers import Headers, read_headers
from switch_export.inspection import PARTS, Count, Inspection
from switch_export.quantize import PRECISIONS, find_precision
from switch_export.readers import LazyTensor
from switch_export.repair import check_described, find_contradictions, repaired
from switch_export.tokenizer import copy_tokenizer

_EMBEDDING_PARTS = dict.fromkeys(tables.EMBEDDINGS, PARTS[0]) | {tables.HEAD: PARTS[-1]}


def inspect_checkpoint(path: Path) -> Inspection:
    """Say what a checkpoint is; reads headers, and embeddings where there are several."""
    return _Checkpoint(path).inspect()


def part_of(name: str) -> str:
    """The part of PARTS that a tensor of a checkpoint belongs to."""
    if name in _EMBEDDING_PARTS or name == "decoder.lm_head.weight":
        return _EMBEDDING_PARTS.get(name, PARTS[-1])
    if "Attention." in name and name.rpartition("Attention.")[2].count(".") == 1 and \
            not name.endswith("relative_attention_bias.weight"):
        return "attention"
    if ".experts." in name:
        return "experts"
    return "dense MLPs" if ".mlp.wi" in name or ".mlp.wo" in name else PARTS[-2]


class _Checkpoint:
    """Collects what is known of a checkpoint, and what is wrong with it, step by step."""

    def __init__(self, path: Path):
        self.path = path
        self.problems: list[str] = []
        self.repairs: list[str] = []
        self.generation = self._json("generation_config.json")
        self.raw = self._json("config.json")

    def inspect(self) -> Inspection:
        """Everything; a step that fails leaves its results empty."""
        headers = self._try(read_headers, self.path) or Headers({}, {})
        checkpoint = self._open(headers)
        parts, types = _count(headers)
        found = Inspection(
            self.path, "checkpoint", parts=parts, types=types, generation=named(self.generation)
        )
        if checkpoint is not None:
            found = self._describe(found, checkpoint, headers)
        return replace(found, repairs=self.repairs, problems=list(dict.fromkeys(self.problems)))

    def _describe(
        self, found: Inspection, checkpoint: Checkpoint, headers: Headers
    ) -> Inspection:
        task, table = None, None
        if headers.tensors:
            checkpoint, task, table = self._table(checkpoint, headers)
        if task is not None:
            self._try(defaults_for, checkpoint, task)
        config = checkpoint.config
        tokenizer = self._tokenizer(config)
        return replace(
            found, task=task, architecture=next(iter(checkpoint.architectures), None),
            model=describe_model(config), capacity={"tokens": config.expert_capacity},
            tokens={
                "pad": config.pad_id, "eos": list(config.eos_ids),
                "decoder_start": config.decoder_start_id,
            },
            tokenizer=next(iter(tokenizer), None),
            exports=self._exports(config, table, task, tokenizer) if table else {},
        )

    def _json(self, name: str) -> dict[str, Any]:
        """A file's contents; what is wrong with it is open_checkpoint's to say."""
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _try(self, function, *arguments):
        try:
            return function(*arguments)
        except ExportError as error:
            self.problems += reasons(error)
            return None

    def _open(self, headers: Headers) -> Checkpoint | None:
        """The checkpoint with the headers for its tensors, as far as its config.json can be read.

        After a refusal too, if it has another reason: there is more to say and to find.
        """
        checkpoint = self._try(open_checkpoint, self.path, str(self.path))
        if checkpoint is None:
            ids = {k: self.generation[k] for k in TOKEN_IDS if self.generation.get(k) is not None}
            config = _readable(self.raw | ids) or _readable(self.raw)
            if config is None:
                return None
            checkpoint = Checkpoint(str(self.path), None, self.path, config, named(self.generation))
        return _with(checkpoint, headers)

    def _table(self, checkpoint: Checkpoint, headers: Headers):
        """The checkpoint, task and weights of an export, after repairs where they are needed."""
        task = None
        try:
            check_described(checkpoint.config, headers.tensors, checkpoint.name)
            task = choose_task(checkpoint, None)
            return checkpoint, task, _match(checkpoint, headers, task)
        except UnsupportedCheckpoint as error:
            self.problems += reasons(error)
        found = find_contradictions(checkpoint.config, headers.tensors)
        if not found:
            return checkpoint, task, None
        self.repairs += map(str, found)
        checkpoint = _with(checkpoint, headers, config=repaired(checkpoint.config, found))
        task = self._try(choose_task, checkpoint, None)
        table = self._try(_match, checkpoint, headers, task) if task is not None else None
        return checkpoint, task, table

    def _tokenizer(self, config: SwitchConfig) -> dict[str, int]:
        """Name and size of the tokenizer's file, if there is one."""
        with tempfile.TemporaryDirectory() as folder:
            found = self._try(copy_tokenizer, self.path, Path(folder), config)
            if found is None:
                return {}
            return {found["file"]: (Path(folder) / found["file"]).stat().st_size}

    def _exports(self, config, table, task: str, tokenizer: dict[str, int]):
        from switch_export.model.names import decoder_names, encoder_names
        from switch_export.storage import WeightFile

        exports = {}
        for name in PRECISIONS:
            precision = find_precision(name, None)
            arguments = (config, table.embeddings, task, precision)
            wanted = list(encoder_names(*arguments).values())
            files: dict[str, int | None] = {"encoder.onnx": None}
            if task != "encoder":
                wanted += decoder_names(*arguments).values()
                files["decoder.onnx"] = None
            if name == "int4" and any(
                table.weights[weight].shape[-1] % 2
                for stored in wanted if stored.form == "values" for weight in stored.weights
            ):
                continue  # two inputs in a byte
            size = WeightFile(self.path / "weights.bin", table.weights, wanted, precision).bytes
            exports[name] = files | {"weights.bin": size} | tokenizer
        return exports


def _with(checkpoint: Checkpoint, headers: Headers, **changes: Any) -> Checkpoint:
    """The checkpoint with changes, and the headers for its tensors."""
    changed = replace(checkpoint, **changes)
    vars(changed)["tensors"] = headers.tensors  # where the cached property looks first
    return changed


def _match(checkpoint: Checkpoint, headers: Headers, task: str) -> tables.WeightTable:
    """The table that open_weights makes, without reading weights."""
    def equal(one: LazyTensor, other: LazyTensor) -> bool:
        return headers.equal(one.name, other.name)

    return tables.match_weights(checkpoint, headers.tensors, task, equal)


def _count(headers: Headers) -> tuple[dict[str, Count], dict[str, Count]]:
    parts = {}
    types: dict[str, Count] = {}
    seen = set()
    for name, tensor in headers.tensors.items():
        place = headers.places[name]
        if place in seen:  # another name of a tensor that was counted
            continue
        seen.add(place)
        parameters, size = prod(tensor.shape), headers.size(name)
        part = part_of(name)
        parts[part] = parts.get(part, Count()).plus(parameters, size)
        types[tensor.dtype] = types.get(tensor.dtype, Count()).plus(parameters, size)
    return {part: parts[part] for part in PARTS if part in parts}, types


def describe_model(config: SwitchConfig) -> dict[str, Any]:
    """What is worth knowing of a configuration; names of switch.json where it has them."""
    found = asdict(config)
    for name in ("pad_id", "eos_ids", "decoder_start_id", "expert_capacity"):
        del found[name]
    return found


def reasons(error: ExportError) -> list[str]:
    """The reasons in a refusal, one by one, each with what it is about."""
    title, *lines = str(error).split("\n")
    about = "" if " cannot be exported" in title else f"{title} "
    listed = [f"{about}{line[4:]}" for line in lines if line.startswith("  - ")]
    return listed or [str(error).strip()]


def _readable(raw: dict[str, Any]) -> SwitchConfig | None:
    try:
        return SwitchConfig.from_dict(raw)
    except UnsupportedCheckpoint:
        return None
