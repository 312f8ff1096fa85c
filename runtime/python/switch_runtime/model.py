"""The model: generate, stream, score, encode, forward, route."""

import json
import os
import threading
import weakref
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from switch_runtime import arrays, calls, native, stream
from switch_runtime.callbacks import Progress
from switch_runtime.cancel import CancelToken
from switch_runtime.errors import InvalidArgument
from switch_runtime.inputs import IdLists, Row, RowReader, Rows, refuse
from switch_runtime.options import BatchOptions, GenerateOptions, NativeOptions
from switch_runtime.results import Result, Route, Score
from switch_runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy


class Model:
    """A loaded model directory: made by `load`, usable by any number of threads at once."""

    def __init__(self, directory: Path, options: native.LoadOptions):
        library = native.library()
        handle = library.switch_model_load(os.fsencode(directory), options)
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
        """Decode any number of sources: greedy, sampling, or beam search.

        Args:
            sources: a text, a list of token ids (its end token included), or a list of such rows of
                any lengths.
            options: transformers' names and meaning, see GenerateOptions; what is left out or None
                is the model's default. decoder_input_ids is one row for every source or a list of
                rows, one per source; text in it is encoded without its </s>. logits_processor is
                called once per step with ids, int64 [rows, length], and scores, float32 [rows,
                vocabulary], and returns scores, or None where it changed them in place. What it or
                `progress` raises ends the call and is raised here. On the main thread they are
                called on another one, which is how Ctrl-C is heard.

        Returns num_return_sequences results per source, those of one source neighbours, best first.
        Raises InvalidArgument, OutOfMemory or Failed; TypeError for an unknown option; Cancelled
        after `cancel.cancel()`. That, or Ctrl-C, ends the call within one decoder step.
        """
        with self._in_use() as handle:
            native_options = NativeOptions(handle, self._tokenizer, options)
            reader = RowReader(self._tokenizer)
            rows = reader.rows("sources", sources)
            native_options.refuse(reader.problems, len(rows))
            return self._decode(handle, rows, native_options)

    def stream(self, source: Row, **options: Unpack[GenerateOptions]) -> Iterator[str]:
        """Yield the text of one source in pieces, as it is decoded: greedy or sampling.

        The pieces joined are the text that `generate` gives. They never end inside what a reader
        takes for one character, with one exception: an ASCII character is not held back, so that
        a combining mark after it comes with the next piece.

        To leave the generator (close it, drop it, an exception in the loop) ends the decoding.
        Arguments are those of `generate`, and are checked before the first piece is asked for.
        """
        if self._tokenizer is None:
            raise InvalidArgument(
                "stream gives text, but the model directory has no tokenizer: use stream_ids"
            )
        return stream.texts(self._tokenizer, self.stream_ids(source, **options))

    def stream_ids(self, source: Row, **options: Unpack[GenerateOptions]) -> Iterator[int]:
        """Yield the token ids of one source as they are chosen, as `stream` does its text."""
        with self._in_use() as handle:
            native_options = NativeOptions(handle, self._tokenizer, options)
            reader = RowReader(self._tokenizer)
            row = reader.row("source", source)
            for name in ("num_beams", "num_return_sequences"):
                if (found := getattr(native_options.struct, name)) > 1:
                    reader.problems.append(f"{name} is {found}, expected 1: a stream is one text")
            native_options.refuse(reader.problems, 1)

        def decode() -> None:
            with self._in_use() as handle:
                self._decode(handle, [row], native_options)

        return stream.tokens(decode, native_options)

    def score(
        self,
        sources: Rows,
        targets: Rows,
        max_batch_tokens: int | None = None,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> list[Score]:
        """Return how probable given targets are (teacher forcing), one Score per pair.

        Args:
            sources: as in `generate`.
            targets: as many rows; text is encoded with its </s>. Expert capacity is counted over
                all of a target, as transformers does.
            max_batch_tokens: targets of a batch * the longest of them; None is the default.
            progress: called with the finished pairs and all pairs.
            cancel: as in `generate`.
        """
        options = {"max_batch_tokens": max_batch_tokens, "progress": progress, "cancel": cancel}
        options, reader = BatchOptions(options), RowReader(self._tokenizer)
        rows, target_rows = reader.rows("sources", sources), reader.rows("targets", targets)
        if not reader.problems and len(rows) != len(target_rows):
            reader.problems.append(
                f"targets has {len(target_rows)} rows, expected {len(rows)} as in sources"
            )
        refuse(options.problems + reader.problems)
        lists, targets = IdLists(rows), IdLists(target_rows)
        batch = (lists.structs, targets.structs, len(rows), options.struct)
        found = self._arrays(native.library().switch_score, batch, options)
        return [
            Score(row.tolist(), values)
            for row, (_, values) in zip(target_rows, found, strict=True)
        ]

    def encode(
        self,
        sources: Rows,
        pooling: str | None = None,
        max_batch_tokens: int | None = None,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> "list[numpy.ndarray]":
        """Return the encoder's hidden states, one float32 array per source.

        The directory must have been exported with `--task encoder`.

        Args:
            sources: as in `generate`.
            pooling: None for [tokens, d_model]; "mean", "max", "first" or "last" for one vector
                [d_model] over the tokens, the end token included.
            max_batch_tokens: sources of a batch * the longest of them; None is the default.
            progress: called with the finished sources and all sources.
            cancel: as in `generate`.
        """
        options = {"max_batch_tokens": max_batch_tokens, "progress": progress, "cancel": cancel}
        options, reader = BatchOptions(options), RowReader(self._tokenizer)
        rows = reader.rows("sources", sources)
        kinds = {name.lower() if value else None: value for name, value in native.POOLING.items()}
        if not isinstance(pooling, str | None) or pooling not in kinds:
            reader.problems.append(
                f"pooling is {pooling!r:.40}, expected {', '.join(map(repr, kinds))}"
            )
        refuse(options.problems + reader.problems)
        lists = IdLists(rows)
        batch = (lists.structs, len(lists), kinds[pooling], options.struct)
        found = self._arrays(native.library().switch_encode, batch, options)
        return [value for _, value in found]

    def forward(self, source: Row, target: Row) -> "numpy.ndarray":
        """Return what the decoder says of a given target (teacher forcing).

        The decoder reads the start token and all but the last target token. Expert capacity is
        counted over all of them.

        Returns logits, float32 [target tokens, vocabulary]: row t predicts target token t. Hidden
        states [target tokens, d_model] where the directory was exported with `--task hidden`.
        """
        return self._pair(native.library().switch_forward, source, target)[0][1]

    def route(self, source: Row, target: Row | None = None) -> dict[str, Route]:
        """Return where the sparse layers send each token, as {"encoder.1": Route(expert, gate)}.

        The number is the block's. With a target, read as in `forward`, the decoder's layers too.
        """
        values = dict(self._pair(native.library().switch_route, source, target))
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

    def _decode(self, handle: object, rows: list[array], options: NativeOptions) -> list[Result]:
        library, lists = native.library(), IdLists(rows)
        call = (library.switch_generate, handle, lists.structs, len(lists), options.struct)
        found = calls.run(call, arrays.sequences, library.switch_result_free, options.control)
        decode = self._tokenizer.decode if self._tokenizer else lambda ids: None
        return [
            Result(decode(ids), ids, score, None if eos < 0 else eos) for ids, score, eos in found
        ]

    def _pair(self, function: Callable, source: Row, target: Row | None) -> list:
        """Make a call about one source and perhaps one target."""
        reader = RowReader(self._tokenizer)
        rows = [reader.row("source", source)]
        if target is not None:
            rows.append(reader.row("target", target))
        refuse(reader.problems)
        lists = [IdLists([row]) for row in rows]
        structs = [one.structs for one in lists] + [None] * (2 - len(lists))
        return self._arrays(function, structs, None)

    def _arrays(self, function: Callable, arguments: tuple, options: BatchOptions | None) -> list:
        free = native.library().switch_arrays_free
        with self._in_use() as handle:
            call = (function, handle, *arguments)
            return calls.run(call, arrays.named_arrays, free, options and options.control)

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
