"""Token ids that callers hand in, checked and laid out for the C API.

Whatever the native library checks itself (ids against the vocabulary) is not checked here: there is
one message for it.
"""

import ctypes
import operator
from array import array
from collections.abc import Iterable, Sequence

from switch_runtime import native
from switch_runtime.errors import InvalidArgument
from switch_runtime.tokenizer import Tokenizer

Row = str | Sequence[int]
Rows = str | Sequence[int] | Sequence[Row]

_SHOWN = 5  # problems of one list that an error names
_POINTER = ctypes.POINTER(ctypes.c_int64)


class IdLists:
    """Rows of token ids as the C API takes them: keep it as long as the native call lasts."""

    def __init__(self, rows: list[array]):
        self._rows = rows  # the structs point into them
        self.structs = (native.Ids * len(rows))()
        for struct, row in zip(self.structs, rows, strict=True):
            if row:
                address, struct.count = row.buffer_info()
                struct.ids = ctypes.cast(address, _POINTER)

    def __len__(self) -> int:
        return len(self._rows)


class RowReader:
    """Turns texts and lists of ids into rows of ids, and remembers every problem."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        *,
        ended: bool = True,
        empty: bool = False,
        expected: str = "text or token ids",
    ):
        """Tell what a row may be.

        Args:
            tokenizer: None where the model has none, which makes text an error.
            ended: text keeps its </s>.
            empty: a row may have no ids.
            expected: what errors say that a row may be.
        """
        self._tokenizer = tokenizer
        self._ended = ended
        self._empty = empty
        self._expected = expected
        self.problems: list[str] = []

    def rows(self, name: str, given: Rows) -> list[array]:
        """Return the ids of a text, of token ids, or of each of a sequence of such rows."""
        if isinstance(given, str):
            return [self._text(f"{name}[0]", given)]
        items = self._items(name, given)
        if items and any(isinstance(item, Iterable) for item in items):
            return self.each(name, items)
        if items == [] and not self._empty:
            self.problems.append(f"{name} is empty, expected at least one {self._expected}")
        return [self._ids(name, items or [])]

    def each(self, name: str, items: Sequence[Row]) -> list[array]:
        """Return the ids of every row."""
        before, self.problems = self.problems, []
        rows = [self.row(f"{name}[{index}]", item) for index, item in enumerate(items)]
        self.problems = before + shortened(self.problems)
        return rows

    def row(self, name: str, given: Row) -> array:
        """Return the ids of one row; `name` is what errors call it."""
        if isinstance(given, str):
            return self._text(name, given)
        items = self._items(name, given)
        if items == [] and not self._empty:
            hint = " (the text '' is its end token alone)" if "text" in self._expected else ""
            self.problems.append(f"{name} has no token ids, expected at least one{hint}")
        return self._ids(name, items or [])

    def _text(self, name: str, text: str) -> array:
        if self._tokenizer is None:
            why = f"{name} is text, but the model directory has no tokenizer: give token ids"
            if "text" not in self._expected:
                why = f"{name} is {text!r:.40}, expected {self._expected}"
            self.problems.append(why)
            return array("q")
        try:
            ids = self._tokenizer.encode(text)
        except InvalidArgument as error:
            self.problems.append(f"{name}: {error}")
            return array("q")
        return array("q", ids if self._ended else ids[:-1])

    def _items(self, name: str, given: object) -> list | None:
        """Return the items of a sequence; those of an array as Python's own numbers."""
        if isinstance(given, (list, tuple)):
            return list(given)
        listed = given.tolist() if hasattr(given, "tolist") else given
        unfit = (str, bytes, bytearray, dict, set)
        if isinstance(listed, Iterable) and not isinstance(listed, unfit):
            return list(listed)
        self.problems.append(
            f"{name} is {type(given).__name__} {given!r:.40}, expected {self._expected}"
        )
        return None

    def _ids(self, name: str, items: list) -> array:
        if set(map(type, items)) <= {int}:  # else True would be 1
            try:
                return array("q", items)
            except OverflowError:
                pass  # told below, with its place
        ids, problems = array("q"), []
        for index, item in enumerate(items):
            number = integer(item)
            if number is None:
                problems.append(f"{name}[{index}] is {item!r:.40}, expected an integer token id")
            elif not -(1 << 63) <= number < 1 << 63:
                problems.append(f"{name}[{index}] is {number}, which no token id can be")
            else:
                ids.append(number)
        self.problems += shortened(problems)
        return ids


def refuse(problems: list[str]) -> None:
    """Raise InvalidArgument with all problems, if there are any."""
    if len(problems) == 1:
        raise InvalidArgument(problems[0])
    if problems:
        raise InvalidArgument("\n  - ".join(["these arguments cannot be used:", *problems]))


def shortened(problems: list[str]) -> list[str]:
    """Return the first problems of a list, and how many more there are."""
    hidden = len(problems) - _SHOWN
    return problems if hidden <= 1 else [*problems[:_SHOWN], f"and {hidden} more like these"]


def integer(value: object) -> int | None:
    """Return an int of any integer type (NumPy's too), None of everything else, True and False."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
