"""Download a checkpoint from the Hugging Face hub, or take it from the hub's cache."""

from pathlib import Path

from switch_export.checkpoint import LOCAL, WEIGHT_FILES
from switch_export.config import KNOWN_NAMES
from switch_export.errors import ExportError, UnsupportedCheckpoint


def download(repository: str, revision: str | None) -> Path:
    """Give the directory of a hub model's files that an export reads.

    Raises:
        ExportError: the hub does not have it, or did not answer and the cache has none.
        UnsupportedCheckpoint: it holds no configuration or no weights.
    """
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
            f"{LOCAL}"
        ) from error
    except RevisionNotFoundError as error:
        raise ExportError(f"{repository} has no revision {revision!r} on the hub.") from error
    except RepositoryNotFoundError as error:
        raise ExportError(
            f"the hub has no model {repository}, or it is private (`hf auth login`).\n"
            f"Known names: {', '.join(KNOWN_NAMES)}. {LOCAL}"
        ) from error
    except HFValidationError as error:
        raise ExportError(f"{repository} is not a hub id: {error}") from error
    except HfHubHTTPError as error:
        raise ExportError(f"the hub could not give {where}: {error}\n{LOCAL}") from error
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
            f"{where} could not be downloaded: {type(error).__name__}: {error}\n{LOCAL}"
        ) from error


def _wanted(repository: str, files: list[str]) -> list[str]:
    """Names to download: configuration, tokenizer and one format of weights."""
    top = [file for file in files if "/" not in file]
    if "config.json" not in top:
        hint = ""
        if "adapter_config.json" in top:
            hint = "; it holds a PEFT adapter: download it and pass its directory"
        raise UnsupportedCheckpoint(f"{repository} cannot be exported: it has no config.json{hint}")
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
