"""From an input file to an output file, chunk by chunk, so that a run can be killed and resumed.

    FILE.partial    the results of the chunks that are done
    FILE.progress   JSON: what the run is, lines done, bytes read and written

A chunk is committed by appending to FILE.partial, fsync, then replacing FILE.progress in one step.
A run that goes on cuts FILE.partial back to the bytes committed. At the end FILE.partial becomes
FILE and FILE.progress goes. Chunks begin at fixed line numbers, so that results do not depend on
where a run was resumed.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from switch_runtime.errors import SwitchError
from switch_runtime.lines import Chunk, chunk_seed

_FORMAT = 1
_BLOCK = 1 << 20

# Decodes lines: raw lines, number of the first one, seed.
Decode = Callable[[list[bytes], int, int], Chunk]


class BatchError(SwitchError):
    """The files do not allow the run; the message says what to do."""


@dataclass
class Progress:
    """How far a run has come.

    fingerprint: what the results depend on, besides the input.
    seed: of the run, drawn where none was given.
    input_sha256: of the input_bytes that are done.
    errors: how many of the lines had one.
    complete: the end of the input was reached.
    """

    fingerprint: dict
    seed: int
    format: int = _FORMAT
    lines: int = 0
    input_bytes: int = 0
    input_sha256: str = hashlib.sha256().hexdigest()
    output_bytes: int = 0
    errors: int = 0
    complete: bool = False


class BatchFile:
    """The files of one run."""

    def __init__(self, output: Path, chunk_lines: int, resumes: bool = True):
        """`resumes` is false for an input that cannot be read again."""
        self._output = output
        self._resumes = resumes
        self._chunk_lines = chunk_lines
        self._partial = output.with_name(output.name + ".partial")
        self._journal = output.with_name(output.name + ".progress")

    def run(self, source: BinaryIO, progress: Progress, decode: Decode) -> None:
        """Decode what is left of the input; `source` is at its first byte.

        Args:
            source: what begin() was given.
            progress: from begin(); counts on.
            decode: gives the results of a chunk; what it raises leaves the committed chunks.
        """
        progress.complete = False
        hashed = _skip(source, progress)
        with self._open_partial() as partial:
            if os.fstat(partial.fileno()).st_size < progress.output_bytes:
                raise BatchError(f"another switch-generate has just written {self._output}")
            partial.truncate(progress.output_bytes)
            partial.seek(progress.output_bytes)
            while lines := list(islice(source, self._chunk_lines)):
                chunk = progress.lines // self._chunk_lines
                found = decode(lines, progress.lines + 1, chunk_seed(progress.seed, chunk))
                data = b"".join(text.encode() + b"\n" for text in found.written)
                _write(partial, data)
                for line in lines:
                    hashed.update(line)
                progress.lines += len(lines)
                progress.input_bytes += sum(map(len, lines))
                progress.input_sha256 = hashed.hexdigest()
                progress.output_bytes += len(data)
                progress.errors += found.errors
                if self._resumes:
                    self._commit(progress)
            progress.complete = True
            if self._resumes:
                self._commit(progress)
        self._partial.replace(self._output)
        _sync_folder(self._output)
        self._journal.unlink(missing_ok=True)

    def begin(
        self, source: BinaryIO, fingerprint: dict, *, restart: bool, force: bool
    ) -> Progress | None:
        """Return where to go on; None: a run that was killed at its very end is finished now.

        Args:
            source: the input.
            fingerprint: what the results depend on; its "seed" may be None: one is drawn.
            restart: forget a run that was broken off.
            force: the output may exist.
        """
        if restart:
            self._forget()
        done = self._read_journal()
        if done is not None and done.complete and not self._partial.exists():
            self._journal.unlink()  # it was killed between its last two steps
            if self._is_result_of(done, source, fingerprint):
                return None
            done = None
        if self._output.exists() and not force:
            raise BatchError(f"{self._output} exists; pass --force to replace it")
        if done is not None:
            self._check(done, source, fingerprint)
            return done
        if self._partial.exists():
            raise BatchError(
                f"{self._partial} is left of a run that cannot be resumed, as one that reads "
                "standard input; pass --restart to begin again"
            )
        given = fingerprint["seed"]
        seed = secrets.randbits(63) if given is None else given
        progress = Progress(fingerprint, seed)
        if self._resumes:
            self._commit(progress)
        return progress

    def _forget(self) -> None:
        """Remove the files of a run that was broken off."""
        if self._partial.exists():
            self._open_partial().close()  # fails where the run is still going on
        self._partial.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def _read_journal(self) -> Progress | None:
        try:
            found = Progress(**json.loads(self._journal.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise BatchError(
                f"{self._journal} cannot be read: {error}; pass --restart to begin again"
            ) from None
        return found

    def _check(self, done: Progress, source: BinaryIO, fingerprint: dict) -> None:
        """Raise BatchError unless this run can go on where that one ended."""
        problems = _differences(done, fingerprint)
        if not self._resumes:
            problems.append("it read a file, and standard input cannot be resumed")
        if not problems:
            problems = self._input_problems(done, source)
        size = self._partial.stat().st_size if self._partial.exists() else 0
        if size < done.output_bytes:
            problems.append(
                f"{self._partial} has {size} bytes, expected at least {done.output_bytes}"
            )
        if problems:
            found = "\n  - ".join([f"{self._journal} is of a run that cannot go on:", *problems])
            raise BatchError(
                f"{found}\nPass --restart to begin again, or remove it and {self._partial.name}."
            )

    def _input_problems(self, done: Progress, source: BinaryIO) -> list[str]:
        """Say what has changed in the part of the input that is done."""
        found = _skip(source, done).hexdigest()
        more = bool(source.read(1))
        source.seek(max(0, done.input_bytes - 1))
        open_line = source.read(min(1, done.input_bytes)) not in (b"", b"\n")
        source.seek(0)
        if found != done.input_sha256:
            return [f"the first {done.lines} lines of the input have changed"]
        if more and (open_line or done.lines % self._chunk_lines):
            return ["the input has grown since its end was reached"]
        return []

    def _is_result_of(self, done: Progress, source: BinaryIO, fingerprint: dict) -> bool:
        """Say whether the output is the whole result of this very run."""
        exists = self._output.exists() and self._output.stat().st_size == done.output_bytes
        if not exists or not self._resumes or _differences(done, fingerprint):
            return False
        return not self._input_problems(done, source)

    def _open_partial(self) -> BinaryIO:
        """Open FILE.partial, which nobody else may write meanwhile."""
        file = self._partial.open("r+b" if self._partial.exists() else "w+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise BatchError(f"another switch-generate is writing {self._output}") from None
        return file

    def _commit(self, progress: Progress) -> None:
        """Replace FILE.progress in one step."""
        new = self._journal.with_name(self._journal.name + ".new")
        with new.open("wb", buffering=0) as file:
            _write(file, json.dumps(asdict(progress), indent=1).encode() + b"\n")
        new.replace(self._journal)
        _sync_folder(self._journal)


def run_fingerprint(directory: Path, version: str, settings: dict) -> dict:
    """Return what results depend on, as JSON holds it."""
    digest = hashlib.sha256((directory / "switch.json").read_bytes()).hexdigest()
    entries = {"switch.json": digest, "version": version} | settings
    return json.loads(json.dumps(entries))


def _skip(source: BinaryIO, progress: Progress) -> "hashlib._Hash":
    """Move to the first byte that is not done; return the hash of those before."""
    hashed = hashlib.sha256()
    left = progress.input_bytes
    while left and (block := source.read(min(left, _BLOCK))):
        hashed.update(block)
        left -= len(block)
    return hashed


def _differences(done: Progress, fingerprint: dict) -> list[str]:
    before, now = done.fingerprint, fingerprint
    names = [name for name in [*before, *now] if before.get(name) != now.get(name)]
    others = [] if done.format == _FORMAT else [f"format is {done.format}, expected {_FORMAT}"]
    return others + [
        f"{name} was {before.get(name)!r:.60}, is {now.get(name)!r:.60}"
        for name in dict.fromkeys(names)
    ]


def _write(file: BinaryIO, data: bytes) -> None:
    """Write all of the data through to the disk."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make a rename in the file's folder last."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
