"""The output directory: it appears whole or not at all.

    .NAME.partial-PID     being written (locked by its writer), or left by one that was killed
    .NAME.previous-PID    the old directory, where the file system cannot exchange two names
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from switch_export.errors import ExportError

DESCRIPTION = "switch.json"
_NOREPLACE, _EXCHANGE = 1, 2  # renameat2(2)
_AT_FDCWD = -100
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_output(output: Path, force: bool) -> None:
    """See that `output` may be written, before any work.

    Raises:
        ExportError: it exists and `force` is not given, or it is something that an export did not
            write, or its parent folder cannot take it.
    """
    output = _real(output)
    parent = output.parent
    if not parent.is_dir():
        raise ExportError(f"the output {output} needs the folder {parent}, which does not exist")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ExportError(f"the output {output} cannot be made: {parent} is not writable")
    if not os.path.lexists(output):
        return
    if not force:
        raise ExportError(f"the output {output} exists; pass --force to replace it")
    if not output.is_dir():
        raise ExportError(f"the output {output} is a file, expected a directory or nothing")
    if any(output.iterdir()) and not (output / DESCRIPTION).is_file():
        raise ExportError(
            f"the output {output} is not a model directory (no {DESCRIPTION}), so --force does not "
            "replace it; remove it yourself or choose another"
        )


@contextlib.contextmanager
def staged(output: Path, force: bool = False) -> Iterator[Path]:
    """Give a temporary sibling of `output` to write; it takes that name when the block succeeds.

    Killed at any moment, `output` is the old complete directory (or absent), or the new one.

    Raises:
        ExportError: as `check_output`; the disk is full. Nothing is left behind.
    """
    output = _real(output)
    if output.parent.is_dir():
        _clear_siblings(output)
    check_output(output, force)
    try:
        directory, lock = _make_sibling(output)
    except OSError as error:
        raise ExportError(f"the output {output} cannot be made: {error}") from error
    try:
        yield directory
        _flush(directory)
        _commit(directory, output, force)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(output.parent).free
        raise ExportError(
            f"the disk is full: {error}; {free >> 20} MiB are free beside {output}. "
            "Nothing was written: free some space or choose another --output"
        ) from error
    finally:
        # After an exchange this is the old directory.
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def write_description(directory: Path, description: dict[str, Any]) -> None:
    """Write switch.json with size and sha256 of every other file.

    An existing one is replaced in one step.
    """
    files = {}
    for path in sorted(directory.iterdir()):
        if path.name != DESCRIPTION:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.name] = {"size": path.stat().st_size, "sha256": digest}
    text = json.dumps(description | {"files": files}, indent=1, ensure_ascii=False)
    temporary = directory / f".{DESCRIPTION}"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(directory / DESCRIPTION)


def _real(output: Path) -> Path:
    """The place behind symbolic links: renaming must not replace a link by a directory."""
    return Path(os.path.realpath(output))


def _make_sibling(output: Path) -> tuple[Path, int]:
    """Make and lock the temporary directory; the lock dies with the process."""
    path = output.parent / f".{output.name}.partial-{os.getpid()}"
    while True:
        path.mkdir()
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another export may have taken it for a dead one's before it was locked.
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(lock)):
                return path, lock
        os.close(lock)


def _clear_siblings(output: Path) -> None:
    """Remove what killed exports left, or bring back the directory that one had moved away."""
    for path in _siblings(output, "previous"):
        if os.path.lexists(output):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(output)
    for path in _siblings(output, "partial"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        with contextlib.suppress(OSError):  # its writer is alive
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _siblings(output: Path, kind: str) -> list[Path]:
    prefix = f".{output.name}.{kind}-"
    return [
        path for path in output.parent.iterdir()
        if path.name.startswith(prefix) and path.name.removeprefix(prefix).isdigit()
    ]


def _flush(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _commit(directory: Path, output: Path, force: bool) -> None:
    exchange = force and output.is_dir()
    try:
        _rename(directory, output, _EXCHANGE if exchange else _NOREPLACE)
    except FileExistsError:
        raise ExportError(f"the output {output} appeared during the export; it was kept") from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _rename_in_steps(directory, output, exchange)
    _sync(output.parent)


def _rename_in_steps(directory: Path, output: Path, exchange: bool) -> None:
    """Replace `output` where the file system has no exchange.

    Killed between the steps, the next export finds `.previous` and brings it back.
    """
    if not exchange:
        if os.path.lexists(output):
            raise ExportError(f"the output {output} appeared during the export; it was kept")
        directory.rename(output)
        return
    previous = output.parent / f".{output.name}.previous-{os.getpid()}"
    output.rename(previous)
    directory.rename(output)
    shutil.rmtree(previous, ignore_errors=True)


def _rename(source: Path, target: Path, flags: int) -> None:
    """renameat2(2), which Python does not offer."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        rename = libc.renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, "renameat2 is not in this C library") from None
    if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))
