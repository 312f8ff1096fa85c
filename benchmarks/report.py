"""README.md's table, made from the rows of benchmarks/results/decode.jsonl.

    python benchmarks/report.py           # write it
    python benchmarks/report.py --check   # fail if README.md differs from the rows
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "decode.jsonl"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def table(rows: list[dict]) -> str:
    """Markdown: one line per model, engine; columns by case. No speed where ids differ."""
    first = rows[0]
    versions = first["versions"]
    lines = [
        f"Decoding, fp32, {first['new']} new tokens from {first['source']} source tokens, "
        f"{first['threads']} threads ({first['cpu']}); base-8 has random weights.",
        "",
        "| model | engine | ms/token b1 | tokens/s b8 | ms/step 4 beams | load, anonymous MiB "
        "| same ids |",
        "|---|---|---|---|---|---|---|",
    ]
    names = {
        "transformers": f"transformers {versions['transformers']} "
        f"(PyTorch {versions['torch'].split('+')[0]})",
        "switch_runtime": f"**switch_runtime** (ONNX Runtime {versions['onnxruntime']})",
    }
    for model in dict.fromkeys(row["model"] for row in rows):
        for engine, label in names.items():
            cells = {
                (row["batch"], row["beams"]): row for row in rows
                if (row["model"], row["engine"]) == (model, engine)
            }
            same = all(row["same_ids"] for row in cells.values())
            values = (
                cells[1, 1]["ms_per_step"], cells[8, 1]["tokens_per_second"],
                cells[1, 4]["ms_per_step"],
            )
            speed = [_figure(value) if same else "-" for value in values]
            memory = f"{cells[1, 1]['load_anonymous_mib']:.0f}"
            answer = "-" if engine == "transformers" else "yes" if same else "no"
            lines.append("| " + " | ".join([model, label, *speed, memory, answer]) + " |")
    lines += ["", f"Measured {first['date']}; `python benchmarks/decode.py --readme` reprints it."]
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def replaced(text: str, rows: list[dict]) -> str:
    """`text` with what stands between the markers replaced by the table of `rows`."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(rows)}\n{END}{tail}"


def read_rows() -> list[dict]:
    """The recorded rows."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def write_readme(readme: Path, rows: list[dict]) -> None:
    """Put the table into README.md."""
    readme.write_text(replaced(readme.read_text(), rows))


if __name__ == "__main__":
    path = ROOT / "README.md"
    if "--check" in sys.argv:
        if replaced(path.read_text(), read_rows()) != path.read_text():
            sys.exit("README.md's table is not that of benchmarks/results/decode.jsonl; "
                     "run python benchmarks/report.py")
    else:
        write_readme(path, read_rows())
