"""Model directories to measure, exported once and again when the exporter changes.

Checkpoints and exports are made in processes of their own, whose memory is not counted as ours.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from switch_bench import shapes
from switch_bench.engines import Absent
from switch_bench.paths import ROOT, TINY, WORK

_EXPORT = "from switch_export.cli import main; main()"
#: Precisions of each shape; base-64 in fp32 would be 15 GB.
PRECISIONS = {
    "base-8": ("fp32", "bf16", "int8", "int4"),
    "base-64": ("bf16", "int8", "int4"),
    "switch-tiny": ("fp32", "bf16", "int8", "int4"),
}


def checkpoint(shape: str) -> Path:
    """Return the checkpoint of a shape; made when it is not there."""
    if shape == "switch-tiny":
        return TINY
    path = WORK / f"{shape}-checkpoint"
    if not path.exists():
        _run("-m", "switch_bench.shapes", shape, str(WORK))
    return path


def directory(shape: str, precision: str, task: str = "seq2seq") -> Path:
    """Return the exported model directory, made by the exporter as it is now.

    Raises Absent where the exporter refuses, with its message.
    """
    path = WORK / f"{shape}-{precision}{'' if task == 'seq2seq' else '-' + task}"
    stamp, maker = path.with_name(f"{path.name}.made-by"), _makers()
    if path.exists() and stamp.exists() and stamp.read_text() == maker:
        return path
    shutil.rmtree(path, ignore_errors=True)
    # The suite compares ids on every cell, which verification would only repeat.
    _run("-c", _EXPORT, "--model", str(checkpoint(shape)), "--output", str(path),
         "--precision", precision, "--task", task, "--no-verify")
    stamp.write_text(maker)
    return path


def _run(*arguments: str) -> None:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "".join(done.stderr.strip().splitlines()[-1:])
        raise Absent(f"{' '.join(arguments)}: {last}")


def _makers() -> str:
    """Return a digest of the exporter's sources and of the shapes."""
    paths = [*sorted((ROOT / "exporter").rglob("*.py")), Path(shapes.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
