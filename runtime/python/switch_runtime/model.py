"""The model: load a directory, generate, encode, forward, route."""

import ctypes
import hashlib
import json
import os
import threading
import weakref
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Unpack

from switch_runtime import arrays, native
from switch_runtime.errors import InvalidArgument, InvalidModel
from switch_runtime.inputs import GenerateOptions, Row, Rows, set_options, token_row, token_rows
from switch_runtime.interrupt import interruptible
from switch_runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy


@dataclass(frozen=True)
class Result:
    """One generated sequence.

    text: the decoded token ids; None where the model directory has no tokenizer.
    token_ids: what was generated, without start token, end token and padding.
    score: sum of the log-probabilities of the generated tokens, the end token's included, divided
        by their number ** length_penalty (transformers' sequences_scores).
    eos: the end token that finished the sequence; None where it was cut at the length limit.
    """

    text: str | None
    token_ids: list[int]
    score: float
    eos: int | None

    @property
    def finished(self) -> bool:
        """Whether the model ended the sequence, not the length limit."""
        return self.eos is not None


class Route(NamedTuple):
    """Where one sparse layer sends each token."""

    expert: "numpy.ndarray"  # int32 [tokens]; -1: dropped for want of capacity
    gate: "numpy.ndarray"  # float32 [tokens], the router's probability of its choice


def load(
    directory: str | os.PathLike[str],
    device: str = "cpu",
    threads: int = 0,
    verify: bool = False,
) -> "Model":
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


class Model:
    """A loaded model directory: made by `load`, usable by any number of threads at once."""

    def __init__(self, directory: Path, options: native.LoadOptions):
        library = native.library()
        handle = library.switch_model_load(os.fsencode(directory), ctypes.byref(options))
        if not handle:
            raise native.error()
        self._handle = handle
        self._idle = threading.Condition()
        self._calls = 0
        self._free = weakref.finalize(self, library.switch_model_free, handle)
        self._description = json.loads(library.switch_model_describe(handle))
        entry = self._description["switch_json"].get("tokenizer")
        self._tokenizer = entry and Tokenizer(directory / entry["file"], entry["special"])

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None where the model takes and gives token ids only."""
        return self._tokenizer

    def describe(self) -> dict:
        """Return what was loaded.

        Keys: directory, device, threads, onnxruntime (version), onnxruntime_library, plugin_library
        (None: the operator's function bodies run) and switch_json, the directory's description.
        """
        return json.loads(json.dumps(self._description))

    def generate(self, sources: Rows, **options: Unpack[GenerateOptions]) -> list[Result]:
        """Decode one batch: greedy with one beam, else beam search.

        Args:
            sources: a text, a list of token ids (its end token included), or a list of such rows of
                any lengths.
            options: transformers' names and meaning: num_beams, num_return_sequences,
                max_new_tokens, max_length (counts the start token), min_new_tokens,
                length_penalty, early_stopping (False, True, "never"). What is left out or None is
                the model's default.

        Returns num_return_sequences results per source, those of one source neighbours, best first.
        Raises InvalidArgument, OutOfMemory or Failed; TypeError for an unknown option. Ctrl-C ends
        the call within one decoder step.
        """
        library = native.library()
        cancel = ctypes.c_int32(0)
        with self._in_use() as handle:
            native_options = _defaults(handle)
            set_options(native_options, options)
            native_options.cancel = ctypes.pointer(cancel)
            batch = _batch(token_rows(sources, self._tokenizer))
            call = (library.switch_generate, handle, *batch, ctypes.byref(native_options))
            read = (arrays.sequences, library.switch_result_free)
            found = interruptible(lambda: _call(call, *read), cancel)
        return [
            Result(self._text(ids), ids, score, None if eos < 0 else eos)
            for ids, score, eos in found
        ]

    def encode(self, sources: Rows) -> "list[numpy.ndarray]":
        """Return the encoder's hidden states, one float32 [tokens, d_model] per source.

        The directory must have been exported with `--task encoder`.
        """
        batch = _batch(token_rows(sources, self._tokenizer))
        return [value for _, value in self._arrays(native.library().switch_encode, *batch)]

    def forward(self, source: Row, target: Row) -> "numpy.ndarray":
        """Return what the decoder says of a given target (teacher forcing).

        The decoder reads the start token and all but the last target token. Expert capacity is
        counted over all of them.

        Returns logits, float32 [target tokens, vocabulary]: row t predicts target token t. Hidden
        states [target tokens, d_model] where the directory was exported with `--task hidden`.
        """
        pair = self._pair(source, target)
        return self._arrays(native.library().switch_forward, *pair)[0][1]

    def route(self, source: Row, target: Row | None = None) -> dict[str, Route]:
        """Return where the sparse layers send each token, as {"encoder.1": Route(expert, gate)}.

        The number is the block's. With a target, read as in `forward`, the decoder's layers too.
        """
        values = dict(self._arrays(native.library().switch_route, *self._pair(source, target)))
        layers = dict.fromkeys(name.rpartition(".")[0] for name in values)
        return {name: Route(values[f"{name}.expert"], values[f"{name}.gate"]) for name in layers}

    def close(self) -> None:
        """Release the model's memory once the calls of other threads have ended."""
        with self._idle:
            self._handle = None
            self._idle.wait_for(lambda: self._calls == 0)
        self._free()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._handle else ", closed"
        return f"<switch_runtime.Model {self._description['directory']}{state}>"

    def _text(self, ids: list[int]) -> str | None:
        return None if self._tokenizer is None else self._tokenizer.decode(ids)

    def _pair(self, source: Row, target: Row | None) -> tuple:
        """Return the arguments of a call about one source and perhaps one target."""
        ids = token_row("source", source, self._tokenizer)
        targets = array("q") if target is None else token_row("target", target, self._tokenizer)
        return _pointer(ids), len(ids), _pointer(targets), len(targets)

    def _arrays(self, function: Callable, *arguments: object) -> list:
        read = (arrays.named_arrays, native.library().switch_arrays_free)
        with self._in_use() as handle:
            return interruptible(lambda: _call((function, handle, *arguments), *read))

    def _in_use(self) -> "_InUse":
        return _InUse(self)


class _InUse:
    """Keeps `close` from freeing the model during a call; gives the model's handle."""

    def __init__(self, model: Model):
        self._model = model

    def __enter__(self) -> object:
        model = self._model
        with model._idle:
            if model._handle is None:
                raise InvalidArgument("the model is closed")
            model._calls += 1
            return model._handle

    def __exit__(self, *exception: object) -> None:
        with self._model._idle:
            self._model._calls -= 1
            self._model._idle.notify_all()


def _call(call: tuple, read: Callable, free: Callable) -> list:
    """Make a native call, read its result and free it, all on this thread."""
    function, *arguments = call
    found = function(*arguments)
    if not found:
        raise native.error()
    try:
        return read(found)
    finally:
        free(found)


def _defaults(handle: object) -> native.GenerateOptions:
    """Return the model's generation defaults."""
    options = native.GenerateOptions()
    size = ctypes.sizeof(options)
    if native.library().switch_generate_options_init(handle, ctypes.byref(options), size):
        raise native.error()
    return options


def _pointer(ids: array) -> ctypes.Array:
    """Return ids as a C array; the native call reads it, ctypes keeps it alive."""
    return (ctypes.c_int64 * len(ids)).from_buffer_copy(ids)


def _batch(rows: list[array]) -> tuple:
    """Return ids, lengths and batch as the C API takes them."""
    ids = array("q")
    for row in rows:
        ids.extend(row)
    return _pointer(ids), _pointer(array("q", map(len, rows))), len(rows)


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
