"""README.md's table while there are no rows of the suite: those of the decode.jsonl before it.

To be deleted with benchmarks/results/decode.jsonl once `make bench` has been run.
"""

from switch_bench import rows
from switch_bench.paths import RESULTS
from switch_bench.tables import figure

OLD = RESULTS / "decode.jsonl"


def table() -> str:
    """Return markdown: a line per model and engine, columns by cell; no speed where ids differ."""
    found = rows.read(OLD)
    first = found[0]
    versions = first["versions"]
    names = {
        "transformers": f"transformers {versions['transformers']} "
        f"(PyTorch {versions['torch'].split('+')[0]})",
        "switch_runtime": f"**switch_runtime** (ONNX Runtime {versions['onnxruntime']})",
    }
    lines = [
        f"Decoding, fp32, {first['new']} new tokens from {first['source']} source tokens, "
        f"{first['threads']} threads ({first['cpu']}); base-8 has random weights.",
        "",
        "| model | engine | ms/token b1 | tokens/s b8 | ms/step 4 beams | load, anonymous MiB "
        "| same ids |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in dict.fromkeys(row["model"] for row in found):
        for engine, label in names.items():
            cells = {
                (row["batch"], row["beams"]): row for row in found
                if (row["model"], row["engine"]) == (model, engine)
            }
            lines.append("| " + " | ".join([model, label, *_values(engine, cells)]) + " |")
    lines += ["", f"Measured {first['date']}; `make bench` measures again."]
    return "\n".join(lines)


def _values(engine: str, cells: dict) -> list[str]:
    same = all(row["same_ids"] for row in cells.values())
    values = (
        cells[1, 1]["ms_per_step"], cells[8, 1]["tokens_per_second"], cells[1, 4]["ms_per_step"]
    )
    speed = [figure(value) if same else "-" for value in values]
    answer = "-" if engine == "transformers" else "yes" if same else "no"
    return [*speed, f"{cells[1, 1]['load_anonymous_mib']:.0f}", answer]
