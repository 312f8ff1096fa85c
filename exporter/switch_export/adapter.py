"""PEFT LoRA adapters on disk: their configuration, and what each of their tensors is for."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from switch_export.errors import ExportError, UnsupportedCheckpoint
from switch_export.readers import LazyTensor, open_file

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
MERGE = "merge it with PEFT (merge_and_unload, save_pretrained) and export the result"
_PREFIX = "base_model.model."
#: PEFT saves without the adapter's name; who saves the state of a model by hand keeps it.
_HALF = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])"
                   r"(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?")
_SAVED = re.compile(r"\.modules_to_save\.[^.]+(?=\.)")
#: Fields that make more of an adapter than a sum, and what they are.
_FOREIGN = {
    "use_dora": "DoRA scales the rows of the sum by learned magnitudes",
    "lora_bias": "the adapter's matrices have biases, and this model has none",
    "layer_replication": "it repeats layers",
    "use_qalora": "it shares inputs of a quantised model",
    "use_bdlora": "its matrices are block diagonal",
    "alora_invocation_tokens": "it is only active after these tokens",
    "arrow_config": "it chooses among adapters token by token",
    "trainable_token_indices": "it holds rows of an embedding",
}
#: Initialisations that leave the base model as it is. Others (PiSSA, OLoRA, LoftQ, CorDA ...) take
#: the adapter's first values out of it, so that the published base is not the one it was trained
#: on.
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk.

    Attributes:
        name: what the user called it.
        config: the contents of adapter_config.json.
    """

    name: str
    path: Path
    config: dict[str, Any]

    @property
    def base(self) -> str | None:
        """The model that it was trained on, as PEFT recorded it."""
        return self.config.get("base_model_name_or_path") or None


@dataclass
class Found:
    """The tensors of an adapter by what they are for; keys are modules, or names of weights."""

    pairs: dict[str, dict[str, LazyTensor]] = field(default_factory=dict)
    embeddings: set[str] = field(default_factory=set)
    saved: dict[str, LazyTensor] = field(default_factory=dict)
    loaded: dict[str, LazyTensor] = field(default_factory=dict)


def is_adapter(path: Path) -> bool:
    """Whether a directory holds an adapter and no model."""
    from switch_export.checkpoint import find_weights

    whole = find_weights(path) is not None
    return (path / CONFIG).is_file() and not whole


def open_adapter(name: str) -> Adapter:
    """Read the configuration of the adapter in directory `name`.

    Raises:
        ExportError: there is none.
    """
    path = Path(name).expanduser()
    if not (path / CONFIG).is_file():
        raise ExportError(
            f"the adapter {name} is not a directory that holds {CONFIG}; pass what save_pretrained "
            "of a PEFT model wrote"
        )
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise UnsupportedCheckpoint(
            f"{name} cannot be merged: {CONFIG} cannot be read: {error}"
        ) from error
    return Adapter(name, path, config)


def refused(config: dict[str, Any]) -> list[str]:
    """Why an adapter is not a sum of the model and its pairs: every reason."""
    problems = []
    if config.get("peft_type") != "LORA":
        problems.append(f"peft_type is {config.get('peft_type')!r}, expected 'LORA'")
    if config.get("bias", "none") != "none":
        problems.append(
            f"bias is {config['bias']!r}, expected 'none': this model's layers have no biases"
        )
    problems += [
        f"{name} is {json.dumps(config[name])[:60]}: {reason}"
        for name, reason in _FOREIGN.items() if config.get(name)
    ]
    start = config.get("init_lora_weights")
    if not any(start is known or start == known for known in _INITIALISATIONS):
        problems.append(
            f"init_lora_weights is {start!r}: its training changed the base model too, so that "
            f"its sum with the published one is another model; {MERGE}"
        )
    return problems


def sort_tensors(adapter: Adapter, problems: list[str]) -> Found:
    """Open the file and say what each of its tensors is for."""
    file = next((adapter.path / name for name in FILES if (adapter.path / name).is_file()), None)
    found = Found()
    if file is None:
        problems.append(f"no weights in {adapter.path}, expected one of {', '.join(FILES)}")
        return found
    before = len(problems)
    listed = adapter.config.get("modules_to_save") or ()
    for key, tensor in open_file(file, problems).items():
        name = key.removeprefix(_PREFIX)
        half = _HALF.fullmatch(name)
        if half:
            if half["embedding"]:
                found.embeddings.add(half["module"])
            pair = found.pairs.setdefault(half["module"], {})
            if half["half"] in pair:
                problems.append(f"{key} and {pair[half['half']].name} are one half of a pair twice")
            pair[half["half"]] = tensor
        else:
            plain = _SAVED.sub("", name).replace(".base_layer.", ".")
            module = plain.rpartition(".")[0]
            own = _SAVED.search(name) or any(
                re.search(rf"(^|\.){re.escape(part)}(\.|$)", module) for part in listed
            )
            place = found.saved if own else found.loaded
            if plain in found.saved or plain in found.loaded:
                problems.append(f"{key} is a second {plain}")
            place[plain] = tensor
    if not found.pairs and len(problems) == before:
        problems.append(f"{file.name} holds no pairs of lora_A and lora_B")
    return found
