"""What is timed: switch_runtime and transformers behind one small interface.

An engine has `name`, `precision`, `vocabulary` (ids it knows), `loaded` (what loading took:
{"seconds", "anonymous_mib", "file_mib"}), `disk_mib`, and `decode(rows, cell, new)`, which gives
the token ids of every row without the start token. One that is not installed raises Absent.
"""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from switch_bench import machine
from switch_bench.cells import Cell, Rows
from switch_bench.phases import seconds_of
from switch_bench.traffic import Format

BODIES = ", no plugin"  # end of the name of an engine that runs the function bodies
_NO_LIBRARY = "none"  # value of SWITCH_PLUGIN_LIBRARY


class Absent(RuntimeError):
    """A peer that cannot take part, with the reason."""


@contextmanager
def loading(engine) -> Iterator[None]:
    """Set `engine.loaded` to what the block took: seconds, MiB of anonymous and file memory."""
    before = machine.memory()
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    after = machine.memory()
    engine.loaded = {
        "seconds": seconds,
        "anonymous_mib": after["RssAnon"] - before["RssAnon"],
        "file_mib": after["RssFile"] - before["RssFile"],
    }


@contextmanager
def _plugin(wanted: bool) -> Iterator[None]:
    """Load with the plugin that the runtime finds, or with none."""
    name = "SWITCH_PLUGIN_LIBRARY"
    before = os.environ.get(name)
    if not wanted:
        os.environ[name] = _NO_LIBRARY
    try:
        yield
    finally:
        if not wanted:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before


class Ours:
    """switch_runtime on a model directory."""

    def __init__(self, directory: Path, threads: int, plugin: bool = True):
        import switch_runtime

        self.directory, self.threads, self.plugin = directory, threads, plugin
        with loading(self), _plugin(plugin):
            self.model = switch_runtime.load(directory, threads=threads)
        description = self.model.describe()
        if not plugin and description["plugin_library"] is not None:
            raise Absent(f"{directory} was loaded with {description['plugin_library']}")
        self.sizes = description["switch_json"]["model"]
        self.vocabulary = self.sizes["vocab_size"]
        self.capacity = description["switch_json"]["capacity"]["tokens"]
        self.precision = description["switch_json"]["precision"]
        self.format = Format(self.precision, description["switch_json"].get("block") or 0)
        self.name = f"switch_runtime {self.precision}" + ("" if plugin else BODIES)
        self.disk_mib = machine.disk(directory)

    def decode(self, rows: Rows, cell: Cell, new: int) -> Rows:
        """Return the best hypothesis of every row."""
        return [ids for ids, *_ in self.hypotheses(rows, cell, new, 1)]

    def hypotheses(self, rows: Rows, cell: Cell, new: int, count: int) -> list[Rows]:
        """Return the `count` best hypotheses of every row."""
        results = self.model.generate(
            rows, num_beams=cell.beams, num_return_sequences=count,
            min_new_tokens=new, max_new_tokens=new,
        )
        ids = [list(result.token_ids) for result in results]
        return [ids[i:i + count] for i in range(0, len(ids), count)]

    def load_again(self, repeats: int) -> list[float]:
        """Return the seconds of `repeats` more loads of files that are in the page cache."""
        import switch_runtime

        def once() -> None:
            with _plugin(self.plugin):
                switch_runtime.load(self.directory, threads=self.threads).close()

        return [seconds_of(once) for _ in range(repeats)]


class Transformers:
    """transformers eager, or compiled, on the checkpoint that ours was exported from."""

    def __init__(self, checkpoint: Path, precision: str, threads: int, compiled: bool = False):
        try:
            import torch
            from transformers import SwitchTransformersForConditionalGeneration as Model
        except ImportError as error:
            raise Absent(f"transformers: {error}") from error
        torch.set_num_threads(threads)
        self.torch = torch
        self.precision = precision
        self.name = f"transformers {precision}" + (" compiled" if compiled else "")
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        with loading(self):
            self.model = Model.from_pretrained(checkpoint, dtype=dtype).eval()
            for parameter in self.model.parameters():  # as after a first pass over mapped weights
                parameter.data = parameter.data.clone()
        self.vocabulary = self.model.config.vocab_size
        if compiled:
            self.model.forward = torch.compile(self.model.forward, dynamic=True)
        self.disk_mib = machine.disk(checkpoint)

    def decode(self, rows: Rows, cell: Cell, new: int) -> Rows:
        """Return the best hypothesis of every row, the end token perhaps included."""
        with self.torch.inference_mode():
            ids = self.model.generate(
                input_ids=self.torch.tensor(rows), num_beams=cell.beams, do_sample=False,
                min_new_tokens=new, max_new_tokens=new,
            )
        return [row[1:] for row in ids.tolist()]

    def encode(self, rows: Rows) -> None:
        """Run the encoder alone."""
        with self.torch.inference_mode():
            self.model.get_encoder()(input_ids=self.torch.tensor(rows))


def mean_cached(new: int) -> float:
    """Return how many tokens the self cache holds on average over the steps 2 to `new`."""
    return statistics.fmean(range(1, new))
