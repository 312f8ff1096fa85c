"""Decoding speed: switch_runtime against transformers eager, in one process, interleaved.

    python benchmarks/decode.py                     # base-8 shape (random weights) and switch-tiny
    python benchmarks/decode.py --readme            # and write README.md's table

Both sides decode the same sources for the same number of tokens, one after the other, several
times; the median of each is reported, and no speed is given for a case whose ids differ.
"""

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import click
import machine
import numpy as np
import report
import shapes

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench"


@dataclass(frozen=True)
class Case:
    """One cell: `batch` sources of `source` tokens, `new` tokens each, with `beams` beams."""

    batch: int
    beams: int
    source: int
    new: int


CASES = (Case(1, 1, 32, 32), Case(8, 1, 32, 32), Case(1, 4, 32, 32))


def sources(case: Case, vocabulary: int) -> list[list[int]]:
    """Random ids, different in every row; ids below 3 are special tokens."""
    generator = np.random.default_rng(case.batch * 1000 + case.source)
    rows = generator.integers(3, vocabulary, (case.batch, case.source - 1))
    return [[*row, 1] for row in rows.tolist()]


class Transformers:
    """transformers eager, fp32."""

    def __init__(self, path: Path):
        import torch
        from transformers import SwitchTransformersForConditionalGeneration

        self.torch = torch
        before = machine.memory()["RssAnon"]
        self.model = SwitchTransformersForConditionalGeneration.from_pretrained(
            path, dtype=torch.float32
        ).eval()
        for parameter in self.model.parameters():  # as after a first pass over mapped weights
            parameter.data = parameter.data.clone()
        self.mebibytes = machine.memory()["RssAnon"] - before

    def decode(self, rows: list[list[int]], case: Case) -> list[list[int]]:
        """Token ids per source, without the start token."""
        with self.torch.no_grad():
            ids = self.model.generate(
                input_ids=self.torch.tensor(rows), num_beams=case.beams, do_sample=False,
                min_new_tokens=case.new, max_new_tokens=case.new,
            )
        return [row[1:] for row in ids.tolist()]


class Ours:
    """switch_runtime on an exported directory."""

    def __init__(self, directory: Path, threads: int):
        import switch_runtime

        before = machine.memory()["RssAnon"]
        self.model = switch_runtime.load(directory, threads=threads)
        self.mebibytes = machine.memory()["RssAnon"] - before

    def decode(self, rows: list[list[int]], case: Case) -> list[list[int]]:
        """Token ids per source, without the start token."""
        results = self.model.generate(
            rows, num_beams=case.beams, min_new_tokens=case.new, max_new_tokens=case.new
        )
        return [list(result.token_ids) for result in results]


def measure(engines: dict, rows: list[list[int]], case: Case, repeats: int) -> dict:
    """Median seconds of each engine, taken in turn, and whether the ids are the same."""
    ids = {name: engine.decode(rows, case) for name, engine in engines.items()}  # warms up too
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repeats):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.decode(rows, case)
            seconds[name].append(time.perf_counter() - start)
    first, *others = ids.values()
    same = all(_equal(first, other) for other in others)
    return {"same_ids": same, "seconds": {n: statistics.median(s) for n, s in seconds.items()}}


def _equal(expected: list[list[int]], found: list[list[int]]) -> bool:
    """Equal ids; transformers' rows may end with the eos that ours leave out."""
    return all(
        e == f or (e[: len(f)] == f and set(e[len(f):]) <= {0, 1})
        for e, f in zip(expected, found, strict=True)
    )


def run(name: str, checkpoint: Path, threads: int, repeats: int) -> list[dict]:
    """All cases of one model; one row per case and engine."""
    import switch_export

    directory = WORK / f"{name}-onnx"
    if not directory.exists():
        switch_export.export(str(checkpoint), directory)
    vocabulary = json.loads((directory / "switch.json").read_text())["model"]["vocab_size"]
    engines = {"switch_runtime": Ours(directory, threads), "transformers": Transformers(checkpoint)}
    facts = machine.describe(threads)
    made = []
    for case in CASES:
        result = measure(engines, sources(case, vocabulary), case, repeats)
        for engine, seconds in result["seconds"].items():
            made.append({
                "model": name, "engine": engine, **case.__dict__, "same_ids": result["same_ids"],
                "ms_per_step": 1000 * seconds / case.new,
                "tokens_per_second": case.batch * case.new / seconds,
                "load_anonymous_mib": engines[engine].mebibytes, **facts,
            })
            click.echo(
                f"{name:12} {engine:15} b{case.batch} beams {case.beams}: "
                f"{made[-1]['ms_per_step']:8.2f} ms/step  same ids: {result['same_ids']}"
            )
    return made


@click.command()
@click.option("--model", "models", multiple=True, default=("base-8", "switch-tiny"))
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--readme", is_flag=True, help="Write the table into README.md.")
def main(models: tuple[str, ...], threads: int, repeats: int, readme: bool) -> None:
    """Measure decoding and append the rows to benchmarks/results/decode.jsonl."""
    import torch

    torch.set_num_threads(threads)
    WORK.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in models:
        tiny = ROOT / "examples" / "switch-tiny"
        checkpoint = tiny if name == "switch-tiny" else shapes.random_checkpoint(name, WORK)
        rows += run(name, checkpoint, threads, repeats)
    results = ROOT / "benchmarks" / "results" / "decode.jsonl"
    results.parent.mkdir(exist_ok=True)
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    click.echo(report.table(rows))
    if readme:
        report.write_readme(ROOT / "README.md", rows)


if __name__ == "__main__":
    main()
