"""What a checkpoint or a model directory is, from its headers; no weight is read.

The one exception: where a file holds several embeddings, their bytes are compared, because the
size of an export depends on which are equal.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from switch_export.checkpoint import WEIGHT_FILES
from switch_export.config import KNOWN_NAMES
from switch_export.directory import DESCRIPTION
from switch_export.errors import ExportError

PARTS = ("embeddings", "attention", "dense MLPs", "experts", "routers, norms, biases", "head")


@dataclass(frozen=True)
class Count:
    """How much there is of something.

    Attributes:
        parameters: weights; scales of quantised ones are bytes only.
    """

    tensors: int = 0
    parameters: int = 0
    bytes: int = 0

    def plus(self, parameters: int, size: int) -> "Count":
        """This and one tensor more."""
        return Count(self.tensors + 1, self.parameters + parameters, self.bytes + size)


@dataclass(frozen=True)
class Inspection:
    """What a directory is. What could not be found out is None or empty.

    Attributes:
        kind: `checkpoint` or `model directory`.
        architecture: the class that config.json names.
        task: what it is exported as without --task, or was exported as.
        model: sizes and layers, by the names of switch.json.
        parts: part of PARTS -> how much of it is stored.
        types: stored type -> how much is stored in it.
        capacity: `tokens` that an expert takes of a row; of a model directory also the `policy`.
        tokens: `pad`, `eos` and `decoder_start`.
        generation: what generation_config.json sets, or what switch.json keeps of it.
        tokenizer: the file it is in.
        origin: of a model directory: source, adapter, target, precision, verification ...
        repairs: what --repair would take from the tensors.
        exports: precision -> name -> bytes of the files that an export writes; None for graphs,
            whose size tracing decides. Empty if the tensors are not those of the configuration.
        problems: why it would be refused.
    """

    path: Path
    kind: str
    architecture: str | None = None
    task: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Count] = field(default_factory=dict)
    types: dict[str, Count] = field(default_factory=dict)
    capacity: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    repairs: list[str] = field(default_factory=list)
    exports: dict[str, dict[str, int | None]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self) | {"path": str(self.path)}


def inspect(path: str | Path) -> Inspection:
    """Say what a directory is, what an export of it would be, and what would refuse it.

    Raises:
        ExportError: it is neither a checkpoint nor a model directory.
    """
    directory = Path(path).expanduser()
    if not directory.is_dir():
        name = str(path)
        if directory.exists():
            raise ExportError(f"{name} is a file; pass the directory that holds it")
        if name in KNOWN_NAMES or (name.count("/") == 1 and name[0] not in "./~"):
            repository = f"google/{name}" if name in KNOWN_NAMES else name
            raise ExportError(
                f"{name} is not a directory, and inspect does not download. If you mean the model "
                f"of the hub: hf download {repository} --local-dir DIR, then inspect DIR"
            )
        raise ExportError(f"{name} does not exist; pass a checkpoint or a model directory")
    if (directory / DESCRIPTION).is_file():
        from switch_export.inspection_directory import inspect_directory

        return inspect_directory(directory)
    if any((directory / file).is_file() for file in ("config.json", *WEIGHT_FILES)):
        from switch_export.inspection_checkpoint import inspect_checkpoint

        return inspect_checkpoint(directory)
    hint = ""
    if (directory / "adapter_config.json").is_file():
        hint = "; it holds a PEFT adapter: inspect the model that it belongs to"
    raise ExportError(
        f"{directory} is neither a checkpoint (no config.json) nor a model directory (no "
        f"{DESCRIPTION}){hint}"
    )
