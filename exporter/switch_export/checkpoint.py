"""Find a checkpoint (known name, hub id or directory) and read its configuration."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switch_export.config import KNOWN_NAMES, SwitchConfig
from switch_export.errors import ExportError, UnsupportedCheckpoint, listing

#: Weight files in the order in which transformers looks for them.
WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)
#: The released checkpoints whose own config.json does not describe them.
MISDESCRIBED = ("switch-xxl-128", "switch-c-2048")
MISDESCRIPTION = (
    "the published switch-xxl-128 and switch-c-2048 hold an untied head named decoder.lm_head and "
    "(xxl) gated MLPs named wi_0 and wi_1, but their config.json describes another model with "
    "fewer layers. transformers fills the difference with random weights; switch-export refuses"
)
#: Ids that switch.json keeps under `tokens`, and what says nothing about the search.
_TOKEN_IDS = ("pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id")
_NOT_DEFAULTS = (
    *_TOKEN_IDS, "transformers_version", "use_cache", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate",
)
_LOCAL = "Pass a directory that holds config.json and the weights to export without a network."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        name: what the user called it.
        revision: the commit of a hub model, None for a directory.
        generation: what generation_config.json sets, transformers' names, without token ids.
    """

    name: str
    revision: str | None
    path: Path
    config: SwitchConfig
    generation: dict[str, Any]


def resolve(model: str, revision: str | None = None) -> Path:
    """Give the directory of `model`, downloaded from the hub if it is not one already.

    Args:
        model: a directory, a known name (`switch-base-8`) or a hub id (`google/switch-base-8`).
        revision: branch, tag or commit of a hub model.

    Raises:
        ExportError: nothing is there, or the hub did not answer.
        UnsupportedCheckpoint: a released checkpoint that cannot be exported as published.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ExportError(
                f"revision {revision!r} is for a model of the hub, but {model} is a directory"
            )
        return path
    last = model.removeprefix("google/")
    if last in MISDESCRIBED:
        raise UnsupportedCheckpoint(f"{model} cannot be exported: {MISDESCRIPTION}.")
    if path.exists():
        raise ExportError(f"{model} is a file; pass the directory that holds config.json")
    repository = f"google/{model}" if model in KNOWN_NAMES else model
    parts = repository.split("/")
    if len(parts) != 2 or parts[0] in ("", ".", "..", "~"):
        raise ExportError(
            f"{model!r} is not a directory, a known name or a hub id (organisation/name).\n"
            f"Known names: {', '.join(KNOWN_NAMES)}"
        )
    return _download(repository, revision)


def open_checkpoint(path: Path, name: str, revision: str | None = None) -> Checkpoint:
    """Read the configuration in `path` and see that there are weights.

    Raises:
        UnsupportedCheckpoint: with every reason.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        adapter = (path / "adapter_config.json").is_file()
        hint = (
            "; it holds a PEFT adapter: merge it into its model first (merge_and_unload)"
            if adapter else "; expected a checkpoint as save_pretrained writes it"
        )
        raise UnsupportedCheckpoint(f"{name} cannot be exported: no config.json in {path}{hint}")
    problems: list[str] = []
    config = _read_json(path / "config.json", problems)
    generation = {}
    if (path / "generation_config.json").is_file():
        generation = _read_json(path / "generation_config.json", problems)
    if not any((path / file).is_file() for file in WEIGHT_FILES):
        problems.append(f"no weights in {path}, expected one of {', '.join(WEIGHT_FILES)}")
    if problems:
        raise UnsupportedCheckpoint(listing(f"{name} cannot be exported:", problems))
    generation = {key: value for key, value in generation.items() if value is not None}
    # generate() takes its ids from generation_config.json and looks in config.json for the rest.
    ids = {key: generation[key] for key in _TOKEN_IDS if key in generation}
    defaults = {
        key: value for key, value in generation.items()
        if key not in _NOT_DEFAULTS and not key.startswith("_")
    }
    if path.parent.name == "snapshots":  # the hub's cache: the folder's name is the commit
        revision = path.name
    return Checkpoint(name, revision, path, SwitchConfig.from_dict(config | ids, name), defaults)


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


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repository} at revision {revision!r}" if revision else repository
    try:
        # model_info does not retry for 20 s when there is no network; list_repo_files does.
        siblings = HfApi().model_info(repository, revision=revision).siblings or []
        patterns = _wanted(repository, [file.rfilename for file in siblings])
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise ExportError(
            f"{where} asks for a login: run `hf auth login` with an account that may read it.\n"
            f"{_LOCAL}"
        ) from error
    except RevisionNotFoundError as error:
        raise ExportError(f"{repository} has no revision {revision!r} on the hub.") from error
    except RepositoryNotFoundError as error:
        raise ExportError(
            f"the hub has no model {repository}, or it is private (`hf auth login`).\n"
            f"Known names: {', '.join(KNOWN_NAMES)}. {_LOCAL}"
        ) from error
    except HFValidationError as error:
        raise ExportError(f"{repository} is not a hub id: {error}") from error
    except HfHubHTTPError as error:
        raise ExportError(f"the hub could not give {where}: {error}\n{_LOCAL}") from error
    except ExportError:
        raise
    except Exception as error:
        if not _is_network(error):
            raise
        return _from_cache(repository, revision, where, error)


def _is_network(error: Exception) -> bool:
    """Whether the hub could not be reached; the client's HTTP library is its own affair."""
    module = type(error).__module__.split(".")[0]
    return isinstance(error, OSError) or module.startswith(("httpx", "httpcore", "requests"))


def _from_cache(repository: str, revision: str | None, where: str, error: Exception) -> Path:
    """A model that was downloaded before exports without a network."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        files = [file.path for file in get_cached_repo_tree(repository, revision=revision)]
        return Path(snapshot_download(
            repository, revision=revision, local_files_only=True,
            allow_patterns=_wanted(repository, files),
        ))
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        raise ExportError(
            f"{where} could not be downloaded: {type(error).__name__}: {error}\n{_LOCAL}"
        ) from error


def _wanted(repository: str, files: list[str]) -> list[str]:
    """Names to download: configuration, tokenizer and one format of weights."""
    top = [file for file in files if "/" not in file]
    if "config.json" not in top:
        raise UnsupportedCheckpoint(f"{repository} cannot be exported: it has no config.json")
    present = [file for file in WEIGHT_FILES if file in top]
    if not present:
        raise UnsupportedCheckpoint(
            f"{repository} cannot be exported: expected one of {', '.join(WEIGHT_FILES)} in it"
        )
    chosen = present[0]
    weights = [chosen]
    if chosen.endswith(".index.json"):
        stem, extension = chosen.removesuffix(".index.json").split(".")
        weights.append(f"{stem}-*.{extension}")
    return [
        "config.json", "generation_config.json", "spiece.model", "tokenizer.json",
        "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", *weights,
    ]
