"""Where the time of a decoder step goes, by part of the model, from ONNX Runtime's own profiler.

    python -m switch_bench.profile              # base-8 in fp32, int8 and int4

The decoder graph runs alone in onnxruntime's Python package with our operators, one token, some
tokens cached. Times of nodes are medians over the steps; the profiler itself adds about 3 us to
each node, which the figures include. Rows go to benchmarks/results/profile.jsonl.
"""

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import click

from switch_bench import exports, machine
from switch_bench.plots import PROFILE

_CACHED, _CAPACITY, _STEPS = 32, 64, 60
_PARTS = {
    "SwitchMoE": "experts", "SwitchMLP": "dense MLPs", "SwitchCachedAttention": "self-attention",
    "SwitchCrossAttention": "cross-attention", "SwitchRouter": "norms and routers",
    "SwitchNorm": "norms and routers", "SwitchLinear": "projections",
}


def parts_of(events: list[dict], vocabulary: int) -> dict[str, float]:
    """Return microseconds of a step by part, from the profiler's events.

    A node's time is its median over the runs; the head is the projection to the vocabulary.
    """
    nodes = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["name"]].append(event)
    parts: dict[str, float] = defaultdict(float)
    for found in nodes.values():
        arguments = found[0]["args"]
        part = _PARTS.get(arguments["op_name"], "other")
        if part == "projections" and f"{vocabulary}]" in str(arguments["output_type_shape"]):
            part = "head"
        parts[part] += statistics.median(event["dur"] for event in found)
    return dict(sorted(parts.items(), key=lambda item: -item[1]))


def profiled(directory: Path, source: int, threads: int) -> dict[str, float]:
    """Run a directory's decoder under the profiler; return microseconds by part."""
    import numpy as np
    import onnxruntime

    import switch_plugins

    sizes = json.loads((directory / "switch.json").read_text())["model"]
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        switch_plugins.register(options)
        session = onnxruntime.InferenceSession(directory / "decoder.onnx", options)
        random = np.random.default_rng(0)
        lengths = {"C": _CAPACITY, "S": source}
        feeds = {
            value.name: random.normal(
                size=[axis if isinstance(axis, int) else lengths.get(axis, 1)
                      for axis in value.shape]
            ).astype(np.float32)
            for value in session.get_inputs() if value.type == "tensor(float)"
        }
        feeds |= {
            "position": np.array(_CACHED), "attention_mask": np.ones((1, source), np.int64)
        }
        outputs = [o.name for o in session.get_outputs() if not o.name.startswith(("ex", "gate"))]
        for token in random.integers(3, sizes["vocab_size"], _STEPS):  # other tokens, other experts
            session.run(outputs, feeds | {"input_ids": np.array([[token]])})
        events = json.loads(Path(session.end_profiling()).read_text())
    return parts_of(events, sizes["vocab_size"])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--shape", default="base-8", show_default=True)
@click.option("--precision", "precisions", multiple=True, default=("fp32", "int8", "int4"))
@click.option("--source", default=32, show_default=True, help="Tokens of the source.")
@click.option("--threads", default=2, show_default=True)
def main(shape: str, precisions: tuple[str, ...], source: int, threads: int) -> None:
    """Profile decoder steps and replace the rows of benchmarks/results/profile.jsonl."""
    made = []
    for precision in precisions:
        parts = profiled(exports.directory(shape, precision), source, threads)
        made.append({"shape": shape, "precision": precision, "source": source, "parts": parts,
                     **machine.describe(threads)})
        click.echo(f"{shape} {precision}: {sum(parts.values()) / 1e3:.2f} ms")
        for part, microseconds in parts.items():
            click.echo(f"  {microseconds:8.0f} us  {part}")
    PROFILE.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


if __name__ == "__main__":
    main()
