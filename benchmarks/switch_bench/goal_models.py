"""Goals that whole models are measured for: decoding, encoding, beams, experts, memory, answers.

A group is a function of a Run that gives findings: (key of goal_list.GOALS or None, figure, how).
Those without a key are the peers' own figures, recorded beside the goals.
"""

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from switch_bench import ctranslate, exports, machine
from switch_bench.cells import Cell, batches, sources
from switch_bench.engines import Absent, Ours, Transformers
from switch_bench.measure import Run, routing, vocabulary
from switch_bench.paths import TINY, WORK
from switch_bench.phases import interleave, interleave_calls, percentiles

GREEDY, BEAMS = Cell(1, 1, 32, 32), Cell(1, 4, 32, 32)
_WANTED_EXPERTS = 64
_CHUNK = 32  # texts decoded together


@dataclass(frozen=True)
class Finding:
    """One figure. `goal` is None for what is only shown; `samples` are percentiles in ms."""

    goal: str | None
    what: str
    seen: float | None
    how: str
    samples: dict | None = None


def _load(precision: str, run: Run, shape: str = "base-8", task: str = "seq2seq") -> Ours:
    return Ours(exports.directory(shape, precision, task), run.threads)


def _ct2(run: Run, measure: str) -> list:
    try:
        return ctranslate.engines(WORK, run.threads, measure)
    except Absent as error:
        print(f"absent: {error}")
        return []


def _peers(run: Run, measure: str) -> dict:
    """Load CTranslate2 first: it has to see its settings before anything imports it."""
    made = _ct2(run, measure)
    try:
        path = exports.checkpoint("base-8")
        made += [Transformers(path, precision, run.threads) for precision in ("fp32", "bf16")]
    except Absent as error:
        print(f"absent: {error}")
    return {engine.name: engine for engine in made}


def _best(medians: dict[str, float], start: str) -> tuple[str | None, float | None]:
    """Return name and ms of the fastest engine whose name starts so."""
    named = [(ms, name) for name, ms in medians.items() if name.startswith(start)]
    ms, name = min(named, default=(None, None))
    return name, ms


def _shown(samples: dict[str, dict], unit: str) -> Iterator[Finding]:
    for name, figures in samples.items():
        yield Finding(None, f"{name}, {unit}", figures["p50"], "", figures)


def _trials(engines: dict, measure: str) -> Iterator[Finding]:
    """Yield every setting of CTranslate2 that was tried."""
    for row in next((e.trials for e in engines.values() if hasattr(e, "trials")), ()):
        what = f"CTranslate2 {row['compute']}, {row['threads']} threads, CT2_USE_MKL={row['mkl']}"
        yield Finding(None, what, row[measure], f"trial, {measure}")


def _against(goal: str, ours: float, peer: tuple[str | None, float | None]) -> Finding:
    name, ms = peer
    if ms is None:
        return Finding(goal, goal, None, "the peer is absent")
    return Finding(goal, goal, ms / ours, f"{ours:.2f} ms against {ms:.2f} ms, {name}")


def decode(run: Run) -> Iterator[Finding]:
    """Per token after the first, batch 1, greedy, 32 source and 32 new tokens, base-8."""
    engines = _peers(run, "decode_ms")
    for precision in ("fp32", "bf16", "int8", "int4"):
        engine = _load(precision, run)
        engines[engine.name] = engine
    inputs = batches(GREEDY, vocabulary(engines), run.repeats)
    taken = interleave(engines, inputs, GREEDY, run.ceiling)
    samples = {name: sample.phases()["per_token"] for name, sample in taken.items()}
    yield from _trials(engines, "decode_ms")
    yield from _shown(samples, "ms per token")
    ms = {name: figures["p50"] for name, figures in samples.items()}
    int8, fp32 = ms["switch_runtime int8"], ms["switch_runtime fp32"]
    yield _against("decode int8 fp32", int8, _best(ms, "transformers fp32"))
    yield _against("decode int8 bf16", int8, _best(ms, "transformers bf16"))
    yield _against("decode fp32 fp32", fp32, _best(ms, "transformers fp32"))
    yield _against("decode int8 ct2", int8, _best(ms, "CTranslate2"))
    yield _against("decode int4 int8", ms["switch_runtime int4"], ("our int8", int8))


def encode(run: Run) -> Iterator[Finding]:
    """Hidden states of the encoder alone on every side, one source; ours from `--task encoder`."""
    engines = _peers(run, "encode_ms")
    yield from _trials(engines, "encode_ms")
    ours = _load("int8", run, task="encoder")
    for length in (128, 512):
        cell = Cell(1, 1, length, 1)
        inputs = batches(cell, ours.vocabulary, run.repeats)
        calls = {
            name: lambda repeat, e=engine, rows=inputs: e.encode(rows[repeat])
            for name, engine in engines.items()
        }
        calls[ours.name] = lambda repeat, rows=inputs: ours.model.encode(rows[repeat])
        taken = interleave_calls(calls, run.repeats, run.ceiling)
        samples = {name: percentiles(seconds) for name, seconds in taken.items()}
        yield from _shown(samples, f"ms, encoder, {length} tokens")
        ms = {name: figures["p50"] for name, figures in samples.items()}
        peer = "transformers fp32" if length == 128 else "CTranslate2"
        yield _against(f"encode {length}", ms[ours.name], _best(ms, peer))


def compiled(run: Run) -> Iterator[Finding]:
    """torch.compile beside eager, fp32; a failure is a finding."""
    path = exports.checkpoint("base-8")
    made = [Transformers(path, "fp32", run.threads, compiled) for compiled in (False, True)]
    engines = {engine.name: engine for engine in made}
    inputs = batches(GREEDY, vocabulary(engines), run.repeats)
    try:
        for engine in engines.values():
            engine.decode(inputs[0], GREEDY, GREEDY.new)
    except Exception as error:  # whatever a compiler raises
        text = str(error).strip().splitlines()[0][:200]
        yield Finding(None, "torch.compile", None, f"failed: {type(error).__name__}: {text}")
        return
    taken = interleave(engines, inputs, GREEDY, run.ceiling)
    yield from _shown({n: s.phases()["per_token"] for n, s in taken.items()}, "ms per token")


def beams(run: Run) -> Iterator[Finding]:
    """Per step, 4 beams and greedy in turn on the same sources."""
    for precision in ("fp32", "int8"):
        engine = _load(precision, run)
        taken = {GREEDY: [], BEAMS: []}
        for rows in batches(GREEDY, engine.vocabulary, run.repeats):
            for cell, samples in taken.items():
                found = interleave({engine.name: engine}, [rows], cell, run.ceiling)
                samples += found[engine.name].per_token
        greedy, four = (1e3 * statistics.median(taken[cell]) for cell in (GREEDY, BEAMS))
        how = f"{four:.2f} ms against {greedy:.2f} ms"
        yield Finding(f"beams {precision}", f"beams {precision}", four / greedy, how)


def experts(run: Run) -> Iterator[Finding]:
    """Per token, base-N's decoder with 8, 32 and 128 experts in turn, int8, files in page cache."""
    names = {count: f"decoder-{count}" for count in (8, 32, 128)}
    engines = {name: _load("int8", run, name) for name in names.values()}
    inputs = batches(GREEDY, vocabulary(engines), run.repeats)
    routings = {}
    for name, engine in engines.items():
        routings[name] = routing(engine, GREEDY, inputs)  # reads every page that will be timed
    touched = len(routings[names[128]].touched)
    taken = interleave(engines, inputs, GREEDY, run.ceiling)
    ms = {name: sample.phases()["per_token"] for name, sample in taken.items()}
    for name, figures in ms.items():
        yield Finding(None, f"{name} int8, ms per token", figures["p50"],
                      f"{len(routings[name].touched)} distinct experts", figures)
    many, few = ms[names[128]]["p50"], ms[names[8]]["p50"]
    how = f"{many:.2f} ms against {few:.2f} ms, {touched} distinct experts touched"
    if touched < _WANTED_EXPERTS:
        yield Finding("experts", "experts", None, f"only {touched} experts touched; more repeats")
        return
    yield Finding("experts", "experts", many / few, how)


def memory(run: Run) -> Iterator[Finding]:
    """All anonymous memory of a fresh process after the load, Python's own included."""
    engine = _load("fp32", run)
    after = machine.memory()["RssAnon"]
    size = (engine.directory / "weights.bin").stat().st_size / 2**20
    rows = sources(GREEDY, engine.vocabulary, 0)
    engine.decode(rows, GREEDY, GREEDY.new)
    later = machine.memory()["RssAnon"]
    how = f"{after:.0f} MiB against {size:.0f} MiB; {later:.0f} MiB after decoding 32 tokens"
    yield Finding("memory", "memory", after / size, how)


def match(run: Run) -> Iterator[Finding]:
    """Exact match on all of held_out.jsonl, greedy, in points of fp32's."""
    lines = (TINY / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    right = {}
    for precision in ("fp32", "int8", "int4"):
        model = _load(precision, run, "switch-tiny").model
        found = []
        for at in range(0, len(cases), _CHUNK):
            texts = [case["text"] for case in cases[at:at + _CHUNK]]
            found += [result.text for result in model.generate(texts, max_new_tokens=64)]
        hits = sum(a == case["expected"] for a, case in zip(found, cases, strict=True))
        right[precision] = 100 * hits / len(cases)
    for precision in ("int8", "int4"):
        how = f"{right[precision]:.2f} % against {right['fp32']:.2f} % of {len(cases)}"
        seen = right[precision] - right["fp32"]
        yield Finding(f"match {precision}", f"match {precision}", seen, how)
