"""Lines in, decoded lines out: what switch-generate does with a chunk of its input."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from switch_runtime import (
    Cancelled,
    CancelToken,
    InvalidArgument,
    Model,
    OutOfMemory,
    Result,
    SwitchError,
)
from switch_runtime.inputs import RowReader

_SHOWN = 20  # bad lines that an error describes; it has the numbers of all


@dataclass(frozen=True)
class Form:
    """How lines are read and results are written."""

    ids: bool = False  # texts are token ids separated by spaces, and results are too
    as_json: bool = False  # results are JSON objects
    jsonl: bool = False  # lines are JSON objects
    skip_errors: bool = False  # a bad line has an error for a result


@dataclass
class Line:
    """One line of the input: a problem, or the token ids to decode."""

    number: int
    source: str | list[int] | None = None
    ids: list[int] = field(default_factory=list)
    kept: dict = field(default_factory=dict)  # a JSON line's other members
    problem: str | None = None


class BadLines(SwitchError):
    """Some lines cannot be decoded."""

    def __init__(self, what: str, lines: list[Line]):
        shown = [f"{what} {line.number}: {line.problem}" for line in lines[:_SHOWN]]
        if others := [str(line.number) for line in lines[_SHOWN:]]:
            shown.append(f"and {what} {', '.join(others)}")
        more = "s" if len(lines) > 1 else ""
        super().__init__(
            "\n  - ".join([f"{len(lines)} {what}{more} cannot be decoded:", *shown])
        )


class Chunk:
    """The results of some lines: what is written, and how many lines had an error."""

    def __init__(self, written: list[str], errors: int):
        self.written = written
        self.errors = errors


class LineDecoder:
    """Decodes chunks of lines with the same options."""

    def __init__(self, model: Model, options: dict, form: Form, what: str = "line"):
        """`options` are those of Model.generate; `what` errors call a line."""
        self._model = model
        self._options = options
        self._form = form
        self._what = what
        described = model.describe()["switch_json"]
        self._vocabulary = described["model"]["vocab_size"]
        default = described.get("generation", {}).get("num_return_sequences", 1)
        self._each = options.get("num_return_sequences", default)

    def check_options(self) -> None:
        """Raise InvalidArgument for wrong options, before any line is read."""
        token = CancelToken()
        token.cancel()
        with contextlib.suppress(Cancelled):
            self._model.generate([[0]], **self._options, cancel=token)

    def decode(
        self,
        lines: list[bytes],
        first: int = 1,
        seed: int | None = None,
        progress: Callable | None = None,
    ) -> Chunk:
        """Return what is to be written for lines numbered from `first`.

        Raises BadLines for lines that cannot be decoded, unless the form skips them.
        """
        read = [self._read(number, line) for number, line in enumerate(lines, first)]
        good = [line for line in read if line.problem is None]
        self._refuse(read)
        options = self._options | {"seed": seed, "progress": progress}
        try:
            results = self._generate(good, options)
        except (InvalidArgument, OutOfMemory) as error:
            self._find_problems(good, options | {"progress": None}, error)
            self._refuse(read)
            remaining = [line for line in good if line.problem is None]
            if len(remaining) == len(good):
                raise
            results = self._generate(remaining, options)
        return self._write(read, iter(results))

    def _generate(self, lines: list[Line], options: dict) -> list[Result]:
        return self._model.generate([line.ids for line in lines], **options) if lines else []

    def _refuse(self, lines: list[Line]) -> None:
        bad = [line for line in lines if line.problem is not None]
        if bad and not self._form.skip_errors:
            raise BadLines(self._what, bad)

    def _find_problems(self, lines: list[Line], options: dict, error: SwitchError) -> None:
        """Find the lines that fail alone (rows too long for the memory) by halving the list."""
        if len(lines) == 1:
            lines[0].problem = str(error)
            return
        middle = len(lines) // 2
        for half in (lines[:middle], lines[middle:]):
            try:
                self._generate(half, options)
            except (InvalidArgument, OutOfMemory) as found:
                self._find_problems(half, options, found)

    def _read(self, number: int, raw: bytes) -> Line:
        line = Line(number)
        try:
            text = raw.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            line.problem = f"is not UTF-8 text: {error.reason} at byte {error.start}"
            return line
        if self._form.jsonl:
            self._read_json(line, text)
        else:
            line.source = text
        if self._form.ids and isinstance(line.source, str):
            try:
                line.source = [int(word) for word in line.source.split()]
            except ValueError:
                line.problem = f"{text!r:.40} is not token ids separated by spaces"
        if line.problem is None:
            self._encode(line)
        return line

    def _read_json(self, line: Line, text: str) -> None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            line.problem = f"is not JSON: {error}"
            return
        if not isinstance(found, dict):
            line.problem = f"is {text!r:.40}, expected a JSON object"
            return
        given = [name for name in ("text", "token_ids") if name in found]
        line.kept = {name: value for name, value in found.items() if name not in given}
        if len(given) != 1:
            has = "has both 'text' and 'token_ids'" if given else "has no 'text' and no 'token_ids'"
            line.problem = f"{has}, expected one of them"
            return
        line.source = found[given[0]]
        expected = str if given == ["text"] else list
        if not isinstance(line.source, expected):
            line.problem = f"{given[0]} is {line.source!r:.40}, expected {_NAMES[expected]}"

    def _encode(self, line: Line) -> None:
        is_text = isinstance(line.source, str)
        reader = RowReader(self._model.tokenizer)
        line.ids = reader.row("text" if is_text else "token_ids", line.source).tolist()
        problems = reader.problems
        beyond = [token for token in line.ids if not 0 <= token < self._vocabulary]
        if beyond:
            problems.append(f"token id {beyond[0]}, expected 0 to {self._vocabulary - 1}")
        if problems:
            line.problem = "; ".join(problems)

    def _write(self, lines: list[Line], results: object) -> Chunk:
        written: list[str] = []
        errors = 0
        for line in lines:
            if line.problem is None:
                written += [self._result(line, next(results)) for _ in range(self._each)]
                continue
            errors += 1
            if self._form.as_json:
                found = line.kept | {"line": line.number, "error": line.problem}
                written.append(_json(found))
            else:
                written += [""] * self._each
        return Chunk(written, errors)

    def _result(self, line: Line, result: Result) -> str:
        if self._form.as_json:
            values = line.kept | {"source": line.source, "text": result.text}
            values |= {"token_ids": result.token_ids, "score": result.score}
            return _json(values)
        if self._form.ids or result.text is None:
            return " ".join(map(str, result.token_ids))
        return result.text


def _json(values: dict) -> str:
    """Return an object in one line that UTF-8 can hold: the input may escape half a character."""
    text = json.dumps(values, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(values)
    return text


_NAMES = {str: "a string", list: "a list"}


def chunk_seed(seed: int, chunk: int) -> int:
    """Return the seed of one chunk: the runtime numbers sources within a call, not a file."""
    digest = hashlib.sha256(f"{seed}:{chunk}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
