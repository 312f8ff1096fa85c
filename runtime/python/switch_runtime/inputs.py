"""What callers hand in, checked and turned into token ids and native options.

Whatever the native library checks itself (ids against the vocabulary, options against each other)
is not checked here: there is one message for it.
"""

import ctypes
import math
import operator
from array import array
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TypedDict

from switch_runtime import native
from switch_runtime.errors import InvalidArgument
from switch_runtime.tokenizer import Tokenizer

Row = str | Sequence[int]
Rows = str | Sequence[int] | Sequence[Row]

_SHOWN = 5  # problems of one input that an error lists


class GenerateOptions(TypedDict, total=False):
    """transformers' names and meaning; None, and what is left out, is the model's default."""

    num_beams: int | None
    num_return_sequences: int | None
    max_new_tokens: int | None
    max_length: int | None
    min_new_tokens: int | None
    length_penalty: float | None
    early_stopping: bool | str | None


_BITS = dict.fromkeys(("num_beams", "num_return_sequences"), 31)
_BITS |= dict.fromkeys(("max_new_tokens", "max_length", "min_new_tokens"), 63)


def set_options(native_options: native.GenerateOptions, options: dict) -> None:
    """Write the options that are given into the native struct.

    Raises TypeError for an unknown option, InvalidArgument with every wrong value.
    """
    known = list(GenerateOptions.__annotations__)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(
            f"generate() has no option {', '.join(map(repr, unknown))}; "
            f"the options are {', '.join(known)}"
        )
    problems = []
    for name, value in options.items():
        if value is None:
            continue
        try:
            setattr(native_options, name, _option(name, value))
        except InvalidArgument as error:
            problems.append(str(error))
    if problems:
        raise InvalidArgument("; ".join(problems))


def _option(name: str, value: object) -> int | float:
    """Return an option as its native type takes it."""
    if name == "early_stopping":
        if isinstance(value, bool) or value == "never":
            return native.EARLY_STOPPING[str(value).upper()]
        raise InvalidArgument(f"early_stopping is {value!r}, expected False, True or 'never'")
    if name == "length_penalty":
        if not isinstance(value, Real) or isinstance(value, bool):
            raise InvalidArgument(f"length_penalty is {value!r}, expected a number")
        if not math.isfinite(ctypes.c_float(value).value):
            raise InvalidArgument(f"length_penalty is {value!r}, expected a finite number")
        return float(value)
    number = _integer(value)
    if number is None:
        raise InvalidArgument(f"{name} is {value!r}, expected an integer")
    limit = 1 << _BITS[name]
    if not -limit <= number < limit:
        raise InvalidArgument(f"{name} is {number}, expected a number below {limit}")
    return number


def _integer(value: object) -> int | None:
    """Return an int of any integer type (NumPy's too), None of everything else, True and False."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def token_rows(sources: Rows, tokenizer: Tokenizer | None) -> list[array]:
    """Return the token ids of every source.

    Args:
        sources: a text, token ids, or a sequence of such rows; integers of any type, also arrays.
        tokenizer: None where the model has none, which makes text an error.

    Raises InvalidArgument that lists what is wrong.
    """
    if isinstance(sources, str):
        sources = [sources]
    items = _items("sources", sources)
    if not items:
        raise InvalidArgument("sources is empty, expected at least one text or list of token ids")
    if not any(isinstance(item, Iterable) for item in items):
        return [token_row("sources", items, tokenizer)]
    rows, problems = [], []
    for index, item in enumerate(items):
        try:
            rows.append(token_row(f"sources[{index}]", item, tokenizer))
        except InvalidArgument as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InvalidArgument("; ".join(problems[:_SHOWN]) + more)
    return rows


def token_row(name: str, source: Row, tokenizer: Tokenizer | None) -> array:
    """Return the int64 token ids of one source; `name` is what errors call it."""
    if isinstance(source, str):
        if tokenizer is None:
            raise InvalidArgument(
                f"{name} is text, but the model directory has no tokenizer: give token ids"
            )
        try:
            return array("q", tokenizer.encode(source))
        except InvalidArgument as error:
            raise InvalidArgument(f"{name}: {error}") from None
    items = _items(name, source)
    if not items:
        raise InvalidArgument(
            f"{name} has no token ids, expected at least one (the text '' is its end token alone)"
        )
    ids, problems = array("q"), []
    for index, item in enumerate(items):
        number = _integer(item)
        if number is None:
            problems.append(f"{name}[{index}] is {item!r}, expected an integer token id")
        elif not -(1 << 63) <= number < 1 << 63:
            problems.append(f"{name}[{index}] is {number}, which no token id can be")
        else:
            ids.append(number)
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InvalidArgument("; ".join(problems[:_SHOWN]) + more)
    return ids


def _items(name: str, source: object) -> list:
    if isinstance(source, (bytes, bytearray, dict, set)) or not isinstance(source, Iterable):
        raise InvalidArgument(
            f"{name} is {type(source).__name__} {source!r:.40}, expected text or token ids"
        )
    try:
        return list(source)
    except TypeError:  # an array without dimensions says that it is iterable
        raise InvalidArgument(f"{name} is {source!r:.40}, expected text or token ids") from None
