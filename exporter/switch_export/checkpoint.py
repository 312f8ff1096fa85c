"""Find a checkpoint (known name, hub id or directory) and read its configuration."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from switch_export.config import KNOWN_NAMES, SwitchConfig
from switch_export.errors import ExportError, UnsupportedCheckpoint, listing
from switch_export.generation import TOKEN_IDS, named

if TYPE_CHECKING:
    from switch_export.adapter import Adapter
    from switch_export.readers import LazyTensor

#: Weight files in the order in which transformers looks for them.
WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)
#: What each of transformers' classes of this model is exported as.
_TASKS = {
    "SwitchTransformersEncoderModel": "encoder",
    "SwitchTransformersModel": "hidden",
    "SwitchTransformersForConditionalGeneration": "seq2seq",
}
LOCAL = "Pass a directory that holds config.json and the weights to export without a network."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        name: what the user called it.
        revision: the commit of a hub model, None for a directory.
        generation: what generation_config.json sets, transformers' names, without token ids.
        architectures: the classes that config.json names.
        adapter: what is merged into its tensors.
        repairs: what `config` has from the tensors instead of from config.json.
    """

    name: str
    revision: str | None
    path: Path
    config: SwitchConfig
    generation: dict[str, Any]
    architectures: tuple[str, ...] = ()
    adapter: "Adapter | None" = None
    repairs: tuple[str, ...] = ()

    @cached_property
    def tensors(self) -> "dict[str, LazyTensor]":
        """Every tensor by its name in the files, with the adapter in it; values are read later.

        Raises:
            UnsupportedCheckpoint: with everything that is wrong with the files.
        """
        from switch_export.lora import merge
        from switch_export.readers import open_tensors

        tensors = open_tensors(self.path, self.name)
        if self.adapter is None:
            return tensors
        return merge(self.adapter, tensors, tied=self.config.tie_word_embeddings)


def find_weights(path: Path) -> Path | None:
    """The file, or the index of shards, that transformers would read in directory `path`."""
    return next((path / file for file in WEIGHT_FILES if (path / file).is_file()), None)


def find_checkpoint(
    model: str, revision: str | None = None, adapter: str | None = None, *, repair: bool = False
) -> Checkpoint:
    """Find and open what the user named: a model, a model and an adapter, or an adapter alone.

    An adapter alone is merged into the model that its configuration names.

    Args:
        repair: take what config.json has wrong from the tensors; the names of MISDESCRIBED imply
            it.

    Raises:
        ExportError: nothing is there, or the hub did not answer.
        UnsupportedCheckpoint: with every reason.
    """
    from switch_export.adapter import is_adapter, open_adapter
    from switch_export.repair import MISDESCRIBED

    opened = None if adapter is None else open_adapter(adapter)
    if opened is None and is_adapter(Path(model).expanduser()):
        opened = open_adapter(model)
        checkpoint = _open_base(opened, revision)
    else:
        checkpoint = open_checkpoint(resolve(model, revision), model, revision)
    if repair or checkpoint.name.removeprefix("google/") in MISDESCRIBED:
        checkpoint = _repaired(checkpoint)
    return replace(checkpoint, adapter=opened)


def _open_base(adapter: "Adapter", revision: str | None) -> Checkpoint:
    """Open the model that an adapter's configuration names."""
    base = adapter.base
    advice = f"pass the model as --model and {adapter.name} as --adapter"
    if not isinstance(base, str):
        raise UnsupportedCheckpoint(
            f"{adapter.name} is an adapter that does not name its model; {advice}"
        )
    if revision is None and not Path(base).expanduser().is_dir():
        revision = adapter.config.get("revision")
    try:
        path = resolve(base, revision)
    except ExportError as error:
        raise type(error)(
            f"the model of the adapter {adapter.name}: {error}\nOr {advice}."
        ) from error
    return open_checkpoint(path, base, revision)


def _repaired(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with a configuration that its tensors do not contradict."""
    from switch_export.repair import find_contradictions, repaired

    found = find_contradictions(checkpoint.config, checkpoint.tensors)
    return replace(
        checkpoint, config=repaired(checkpoint.config, found), repairs=tuple(map(str, found))
    )


def default_task(checkpoint: Checkpoint, tensors: Iterable[str]) -> str:
    """What a checkpoint is exported as unless the user says it.

    Args:
        tensors: the names in its files.
    """
    if checkpoint.config.num_decoder_layers == 0:
        return "encoder"
    for name in checkpoint.architectures:
        if name in _TASKS:
            return _TASKS[name]
    return "seq2seq" if _has_decoder(tensors) else "encoder"


def choose_task(checkpoint: Checkpoint, task: str | None) -> str:
    """The task that was asked for, or the checkpoint's own.

    Raises:
        UnsupportedCheckpoint: the checkpoint has no decoder or no head, and the task needs it.
    """
    tensors = checkpoint.tensors
    chosen = task or default_task(checkpoint, tensors)
    if chosen == "encoder":
        return chosen
    name, kind = checkpoint.name, ", ".join(checkpoint.architectures)
    kind = f" (config.json calls it {kind})" if kind else ""
    if checkpoint.config.num_decoder_layers == 0:
        raise UnsupportedCheckpoint(
            f"{name} has no decoder layers{kind}, and task {chosen} needs them; "
            "export it with --task encoder"
        )
    if not _has_decoder(tensors):
        raise UnsupportedCheckpoint(
            f"{name} has no decoder{kind}: none of its {len(tensors)} tensors is decoder.*, and "
            f"task {chosen} needs them; export it with --task encoder"
        )
    heads = ("lm_head.weight", "decoder.lm_head.weight")
    untied = not checkpoint.config.tie_word_embeddings
    if chosen == "seq2seq" and untied and not any(head in tensors for head in heads):
        raise UnsupportedCheckpoint(
            f"{name} has no head{kind}: tie_word_embeddings is false and lm_head.weight is "
            "missing, which task seq2seq needs; export it with --task hidden"
        )
    return chosen


def _has_decoder(tensors: Iterable[str]) -> bool:
    return any(name.startswith("decoder.block.") for name in tensors)


def resolve(model: str, revision: str | None = None) -> Path:
    """Give the directory of `model`, downloaded from the hub if it is not one already.

    Args:
        model: a directory, a known name (`switch-base-8`) or a hub id (`google/switch-base-8`).
        revision: branch, tag or commit of a hub model.

    Raises:
        ExportError: nothing is there, or the hub did not answer.
        UnsupportedCheckpoint: the hub's model holds no configuration or no weights.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ExportError(
                f"revision {revision!r} is for a model of the hub, but {model} is a directory"
            )
        return path
    from switch_export.hub import download

    if path.exists():
        raise ExportError(f"{model} is a file; pass the directory that holds config.json")
    repository = f"google/{model}" if model in KNOWN_NAMES else model
    parts = repository.split("/")
    if len(parts) != 2 or parts[0] in ("", ".", "..", "~"):
        raise ExportError(
            f"{model!r} is not a directory, a known name or a hub id (organisation/name).\n"
            f"Known names: {', '.join(KNOWN_NAMES)}"
        )
    return download(repository, revision)


def open_checkpoint(path: Path, name: str, revision: str | None = None) -> Checkpoint:
    """Read the configuration in `path` and see that there are weights.

    Raises:
        UnsupportedCheckpoint: with every reason.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        adapter = (path / "adapter_config.json").is_file()
        hint = (
            "; it holds a PEFT adapter: pass its model as --model and this as --adapter, or merge "
            "it first (merge_and_unload)"
            if adapter else "; expected a checkpoint as save_pretrained writes it"
        )
        raise UnsupportedCheckpoint(f"{name} cannot be exported: no config.json in {path}{hint}")
    problems: list[str] = []
    config = _read_json(path / "config.json", problems)
    generation = {}
    if (path / "generation_config.json").is_file():
        generation = _read_json(path / "generation_config.json", problems)
    if find_weights(path) is None:
        problems.append(f"no weights in {path}, expected one of {', '.join(WEIGHT_FILES)}")
    if problems:
        raise UnsupportedCheckpoint(listing(f"{name} cannot be exported:", problems))
    generation = {key: value for key, value in generation.items() if value is not None}
    # generate() takes its ids from generation_config.json and looks in config.json for the rest.
    ids = {key: generation[key] for key in TOKEN_IDS if key in generation}
    if path.parent.name == "snapshots":  # the hub's cache: the folder's name is the commit
        revision = path.name
    classes = config.get("architectures")
    architectures = tuple(map(str, classes)) if isinstance(classes, list) else ()
    config = SwitchConfig.from_dict(config | ids, name)
    return Checkpoint(name, revision, path, config, named(generation), architectures)


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{path.name} is not a JSON object")
        return {}
    return found
