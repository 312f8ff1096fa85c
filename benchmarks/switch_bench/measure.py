"""One cell, from timed engines to finished rows."""

from dataclasses import asdict, dataclass, field

from switch_bench import machine, same_ids
from switch_bench.cells import Cell, Rows, batches
from switch_bench.engines import Ours, mean_cached
from switch_bench.phases import Samples, interleave, percentiles
from switch_bench.routing import Routing, decoder_routing
from switch_bench.traffic import Step, dense_bytes, expert_bytes, step_bytes

ROTATION = 4  # times the last-level cache that the timed part has to touch
QUANTISED = ("int8", "int4")


@dataclass(frozen=True)
class Run:
    """What all cells of a run have in common.

    facts: what every row carries; see machine.describe.
    judge: whether ids are compared; the timing alone is quicker.
    """

    threads: int
    repeats: int
    ceiling: object
    facts: dict = field(default_factory=dict)
    judge: bool = True


def vocabulary(engines: dict) -> int:
    """Return the number of ids that every engine knows."""
    return min(engine.vocabulary for engine in engines.values())


def measure_cell(shape: str, cell: Cell, engines: dict, run: Run) -> list[dict]:
    """Time every engine on one cell, in turn; return one row per engine."""
    inputs = batches(cell, vocabulary(engines), run.repeats)
    ids = {name: engine.decode(inputs[0], cell, cell.new) for name, engine in engines.items()}
    routings = {
        name: routing(engine, cell, inputs) for name, engine in engines.items()
        if isinstance(engine, Ours)
    }
    samples = interleave(engines, inputs, cell, run.ceiling)
    made = []
    for name, engine in engines.items():
        row = {"shape": shape, "engine": name, "precision": engine.precision, **asdict(cell)}
        row |= _speed(engine, cell, samples[name]) | {"process_mib": _process(engine, run)}
        if name in routings:
            row |= _memory_side(engine, cell, samples[name], routings[name], run)
            if run.judge:
                row |= _judged(engine, cell, inputs[0], ids, run)
        made.append(row | run.facts)
    return made


def _speed(engine, cell: Cell, taken: Samples) -> dict:
    phases = taken.phases()
    loads = getattr(engine, "loads", [engine.loaded["seconds"]])
    return {
        "phases_ms": {"load": percentiles(loads), **phases},
        "tokens_per_second": 1e3 * cell.batch * cell.new / phases["total"]["p50"],
        "anonymous_mib": engine.loaded["anonymous_mib"],
        "file_mib": engine.loaded["file_mib"],
        "disk_mib": engine.disk_mib,
    }


def _process(engine, run: Run) -> dict[str, float]:
    """Return the memory of a process with this engine alone, where that was measured, MiB.

    Else of this process without the ceiling's buffer, which other engines may share.
    """
    if hasattr(engine, "process_mib"):
        return engine.process_mib
    found = machine.memory()
    return found | {"RssAnon": found["RssAnon"] - run.ceiling.mib}


def routing(engine: Ours, cell: Cell, inputs: list[Rows]) -> Routing:
    """Return the experts that decoding `inputs` touches; untimed."""
    groups = []
    for rows in inputs:
        found = engine.hypotheses(rows, cell, cell.new, cell.beams)
        pairs = [
            (source, target)
            for source, targets in zip(rows, found, strict=True) for target in targets
        ]
        groups.append(pairs)
    return decoder_routing(engine.model, groups, max(1, engine.capacity))


def touched_bytes(engine: Ours, found: Routing) -> float:
    """Return the distinct weight bytes that the timed part read."""
    experts = len(found.touched) * expert_bytes(engine.sizes, engine.format)
    return dense_bytes(engine.sizes, engine.format) + experts


def _memory_side(engine: Ours, cell: Cell, taken: Samples, found: Routing, run: Run) -> dict:
    step = Step(cell.batch, cell.beams, cell.source, mean_cached(cell.new), found.per_step)
    parts = step_bytes(engine.sizes, engine.format, step)
    touched = touched_bytes(engine, found)
    rotates = touched >= ROTATION * machine.last_level_cache()
    seconds = taken.phases()["per_token"]["p50"] / 1e3
    # What fits the caches is not read from memory: a share would mean nothing.
    share = run.ceiling.share(sum(parts.values()), seconds) if rotates else None
    return {
        "distinct_experts": list(found.per_step),
        "step_bytes": parts,
        "touched_mib": touched / 2**20,
        "rotates": rotates,
        "ceiling": run.ceiling.best,
        "ceiling_by_streams": run.ceiling.by_streams,
        "ceiling_share": share,
    }


def _judged(engine: Ours, cell: Cell, rows: Rows, ids: dict[str, Rows], run: Run) -> dict:
    """Return whether the ids are right, against what, and how far they agree with fp32."""
    found, oracle = ids[engine.name], ids.get("transformers fp32")
    if engine.precision == "fp32" and oracle is not None:
        reference, judge = oracle, "transformers fp32"
    elif engine.plugin:
        reference = same_ids.body_ids(engine.directory, cell, rows, run.threads)
        judge = "the function bodies, same weights"
    else:
        reference, judge = "these are the function bodies", ""
    if isinstance(reference, str):
        verdict = {"same_ids": None, "same_ids_judge": reference}
    else:
        verdict = {"same_ids": same_ids.equal(reference, found), "same_ids_judge": judge}
        if not verdict["same_ids"]:
            distance = same_ids.margin if cell.beams == 1 else same_ids.score_gap
            margin = verdict["same_ids_margin"] = distance(engine.model, rows, reference, found)
            if engine.precision in QUANTISED and margin <= same_ids.TIE:
                verdict["same_ids"] = "ties"
    exact = ids.get("switch_runtime fp32") or oracle
    if exact is not None:
        verdict["agreement_fp32"] = same_ids.agreement(
            [row[: cell.new] for row in exact], found
        )
    return verdict

