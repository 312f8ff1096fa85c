"""Options of generate under transformers' names, and the native struct that they become.

Types are checked here, values by the native library: there is one message for each.
"""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from numbers import Real
from typing import TypedDict

from switch_runtime import native
from switch_runtime.callbacks import Processor, Progress
from switch_runtime.calls import Control
from switch_runtime.cancel import CancelToken
from switch_runtime.errors import InvalidArgument
from switch_runtime.inputs import IdLists, RowReader, Rows, integer, refuse
from switch_runtime.tokenizer import Tokenizer

TokenIds = int | Sequence[int]


class GenerateOptions(TypedDict, total=False):
    """transformers' names and meaning; None, and what is left out, is the model's default."""

    max_new_tokens: int | None
    max_length: int | None  # counts the start token and decoder_input_ids, as min_length does
    min_new_tokens: int | None
    min_length: int | None
    num_beams: int | None
    num_return_sequences: int | None
    length_penalty: float | None
    early_stopping: bool | str | None  # False, True or "never"
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    encoder_no_repeat_ngram_size: int | None
    bad_words_ids: Sequence[Sequence[int]] | None
    forced_bos_token_id: int | None
    forced_eos_token_id: TokenIds | None
    suppress_tokens: TokenIds | None
    begin_suppress_tokens: TokenIds | None
    eos_token_id: TokenIds | None
    decoder_start_token_id: int | None
    decoder_input_ids: Rows | None  # one row for every source, or one per source
    # Not among transformers' options.
    seed: int | None  # the same seed, sources and options give the same tokens
    max_batch_tokens: int | None
    logits_processor: Processor | None
    progress: Progress | None  # called with the finished sources and all sources
    cancel: CancelToken | None


class NativeOptions:
    """The native options of one call, and all that they point to.

    Attributes:
        struct: what the C API reads.
        control: how the call is ended and what its callbacks raised.
        problems: what is wrong with the options.
    """

    def __init__(self, handle: object, tokenizer: Tokenizer | None, options: dict):
        """Take the model's defaults and write the options over them: see `problems`.

        Raises TypeError for an unknown option.
        """
        unknown = [name for name in options if name not in _READERS]
        if unknown:
            raise TypeError(
                f"there is no option {', '.join(map(repr, unknown))}; "
                f"the options are {', '.join(_READERS)}"
            )
        self.struct = native.GenerateOptions()
        size = ctypes.sizeof(self.struct)
        if native.library().switch_generate_options_init(handle, self.struct, size):
            raise native.error()
        self.control = Control()
        self.struct.cancel = ctypes.pointer(self.control.flag)
        self.tokenizer = tokenizer
        self.problems: list[str] = []
        self._handle = handle
        self._kept: list[IdLists] = []
        for name, value in options.items():
            if value is not None:
                _set(self, name, value)

    def refuse(self, others: list[str], batch: int) -> None:
        """Raise InvalidArgument with all problems, those of other arguments included.

        What the native library has against the options is added only where there are problems
        already: else the call itself will say so.
        """
        prefixes = self.struct.decoder_input_count
        if prefixes not in (0, 1, batch):
            self.problems.append(
                f"decoder_input_ids has {prefixes} rows, expected one or as many as sources "
                f"({batch})"
            )
        if self.problems or others:
            refuse(self.problems + self._native_problems() + others)

    def keep(self, rows: list[array]) -> IdLists:
        """Return rows in native form, which live as long as the options."""
        self._kept.append(IdLists(rows))
        return self._kept[-1]

    def _native_problems(self) -> list[str]:
        """Ask the native library by a call that is cancelled before it begins."""
        self.control.flag.value = 1
        batch = max(1, self.struct.decoder_input_count)
        sources = self.keep([array("q", [0])] * batch)
        library = native.library()
        found = library.switch_generate(self._handle, sources.structs, batch, self.struct)
        library.switch_result_free(found)
        if library.switch_last_status() != native.STATUS["INVALID_ARGUMENT"]:
            return []
        lines = str(native.error()).split("\n")
        return [line.removeprefix("  - ") for line in lines if line.startswith("  - ")]


class BatchOptions:
    """The native options of encode and score; `struct` and `control` as in NativeOptions."""

    def __init__(self, options: dict):
        """Read max_batch_tokens, progress and cancel as generate does; None is the default."""
        self.struct = native.BatchOptions(size=ctypes.sizeof(native.BatchOptions))
        self.control = Control()
        self.struct.cancel = ctypes.pointer(self.control.flag)
        self.problems: list[str] = []
        for name, value in options.items():
            if value is not None:
                _set(self, name, value)


def _set(options: NativeOptions | BatchOptions, name: str, value: object) -> None:
    """Write one option into the native struct, or remember what is wrong with it."""
    try:
        for member, made in _READERS[name](options, name, value).items():
            setattr(options.struct, member, made)
    except InvalidArgument as error:
        options.problems.append(str(error))


def _integer(_options: NativeOptions, name: str, value: object) -> dict:
    number = integer(value)
    if number is None:
        raise InvalidArgument(f"{name} is {value!r:.40}, expected an integer")
    limit = 1 << 8 * ctypes.sizeof(_MEMBERS[name]) - 1
    if not -limit <= number < limit:
        raise InvalidArgument(f"{name} is {number}, expected a number below {limit}")
    return {name: number}


def _seed(options: NativeOptions, name: str, value: object) -> dict:
    made = _integer(options, name, value)
    if made[name] < 0:
        raise InvalidArgument(f"seed is {made[name]}, expected 0 or more, or None for a new one")
    return made


def _number(_options: NativeOptions, name: str, value: object) -> dict:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InvalidArgument(f"{name} is {value!r:.40}, expected a number")
    try:
        return {name: float(value)}
    except OverflowError:
        raise InvalidArgument(f"{name} is {value!r:.40}, expected a finite number") from None


def _flag(_options: NativeOptions, name: str, value: object) -> dict:
    return {name: _boolean(name, value, "False or True")}


def _early_stopping(_options: NativeOptions, name: str, value: object) -> dict:
    if isinstance(value, str) and value == "never":
        return {name: native.EARLY_STOPPING["NEVER"]}
    return {name: _boolean(name, value, "False, True or 'never'")}


def _boolean(name: str, value: object, expected: str) -> bool:
    is_numpys = getattr(getattr(value, "dtype", None), "kind", "") == "b" and value.ndim == 0
    if isinstance(value, bool) or is_numpys:
        return bool(value)
    raise InvalidArgument(f"{name} is {value!r:.40}, expected {expected}")


def _ids(options: NativeOptions, name: str, value: object) -> dict:
    reader = RowReader(None, empty=True, expected="a token id or a list of them")
    row = reader.row(name, value if integer(value) is None else [value])
    refuse(reader.problems)
    return {name: options.keep([row]).structs[0]}


def _bad_words(options: NativeOptions, name: str, value: object) -> dict:
    reader = RowReader(None, expected="a list of token ids")
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidArgument(f"{name} is {value!r:.40}, expected a list of lists of token ids")
    rows = reader.each(name, value)
    options.problems += reader.problems
    lists = options.keep(rows if not reader.problems else [])
    return {"bad_words_ids": lists.structs, "bad_words_count": len(lists)}


def _decoder_input(options: NativeOptions, name: str, value: object) -> dict:
    reader = RowReader(options.tokenizer, ended=False, empty=True)
    rows = reader.rows(name, value)
    options.problems += reader.problems
    lists = options.keep(rows if not reader.problems else [])
    return {"decoder_input_ids": lists.structs, "decoder_input_count": len(lists)}


def _processor(options: NativeOptions, name: str, value: object) -> dict:
    return {"on_logits": options.control.callbacks.logits(_function(name, value))}


def _progress(options: NativeOptions, name: str, value: object) -> dict:
    return {"on_progress": options.control.callbacks.progress(_function(name, value))}


def _function(name: str, value: object) -> Callable:
    if not callable(value):
        raise InvalidArgument(f"{name} is {value!r:.40}, expected a function")
    return value


def _cancel(options: NativeOptions, name: str, value: object) -> dict:
    if not isinstance(value, CancelToken):
        raise InvalidArgument(f"{name} is {value!r:.40}, expected a CancelToken")
    options.control.token = value
    return {}


# How an option is read: by the type of the native member of its name, or as said here. A reader
# returns the native members to set, or raises InvalidArgument.
_MEMBERS = dict(native.GenerateOptions._fields_)
_BY_TYPE = {
    ctypes.c_int32: _integer,
    ctypes.c_int64: _integer,
    ctypes.c_double: _number,
    native.Ids: _ids,
}
_SPECIAL = {
    "early_stopping": _early_stopping,
    "do_sample": _flag,
    "seed": _seed,
    "bad_words_ids": _bad_words,
    "decoder_input_ids": _decoder_input,
    "logits_processor": _processor,
    "progress": _progress,
    "cancel": _cancel,
}
_READERS = {
    name: _SPECIAL.get(name) or _BY_TYPE[_MEMBERS[name]] for name in GenerateOptions.__annotations__
}
