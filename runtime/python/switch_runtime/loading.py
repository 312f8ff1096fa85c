"""Load a model directory."""

import ctypes
import hashlib
import json
import os
from pathlib import Path

from switch_runtime import native
from switch_runtime.errors import InvalidArgument, InvalidModel
from switch_runtime.interrupt import interruptible
from switch_runtime.model import Model


def load(
    directory: str | os.PathLike[str],
    device: str = "cpu",
    threads: int = 0,
    verify: bool = False,
) -> Model:
    """Load a model directory.

    Args:
        directory: what switch-export wrote.
        device: "cpu", the only one so far.
        threads: shared by all models of the process, so the first load decides; 0 is one per core.
        verify: compare the sha256 of every file first. Their sizes are compared in any case.

    Raises InvalidModel, InvalidArgument or MissingLibrary.
    """
    directory = Path(directory)
    if not isinstance(device, str):
        raise InvalidArgument(f"device is {device!r}, expected 'cpu'")
    if isinstance(threads, bool) or not isinstance(threads, int) or not 0 <= threads < 1 << 31:
        raise InvalidArgument(f"threads is {threads!r}, expected 0 (one per core) or a number")
    if verify:
        _verify(directory)
    options = native.LoadOptions(
        size=ctypes.sizeof(native.LoadOptions),
        device=device.encode(),
        threads=threads,
        ort_library=native.path_argument(native.onnxruntime_library()),
        plugin_library=native.path_argument(native.plugin_library()),
    )
    return interruptible(lambda: Model(directory, options))


def _verify(directory: Path) -> None:
    """Compare every file with its sha256 in switch.json."""
    try:
        files = json.loads((directory / "switch.json").read_bytes())["files"]
        expected = {str(name): entry["sha256"] for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidModel(
            f"{directory} is not a model directory that can be verified: switch.json: {error!r}"
        ) from None
    problems = []
    for name, digest in expected.items():
        try:
            with (directory / Path(name).name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
            continue
        if found != digest:
            problems.append(f"{name}: sha256 is {found}, expected {digest}")
    if problems:
        raise InvalidModel(
            f"{directory} has been altered since it was exported; export or copy it again:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )
