"""Make the committed model directory of the present format, with what transformers decodes.

    python tests/make_format.py

One directory per format ever released stays in tests/formats: test_formats.py loads them all. Run
this once, when the format's number changes; never over an existing directory.
"""

import json
import tempfile
from pathlib import Path

FORMATS = Path(__file__).parent / "formats"
CONFIG = {
    "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 2, "num_layers": 2,
    "num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
    "expert_capacity": 3,
}
LENGTHS = {"min_new_tokens": 5, "max_new_tokens": 12}
SOURCES = [[17, 40, 5, 99, 23, 61, 8, 1], [77, 12, 1]]


def main() -> None:
    """Export a seeded checkpoint and record greedy and beam ids of transformers."""
    from checkpoints import Variant, load_oracle, make_checkpoint, pad

    import switch_export

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(Path(folder, "checkpoint"), Variant(CONFIG, seed=3))
        written = switch_export.export(str(checkpoint), Path(folder, "directory")).path
        number = json.loads((written / "switch.json").read_text())["format"]
        output = FORMATS / str(number)
        description = json.loads((written / "switch.json").read_text())
        description["source"]["model"] = "random"
        (written / "switch.json").write_text(json.dumps(description, indent=1))
        oracle = load_oracle(checkpoint, "hf")
        output.parent.mkdir(exist_ok=True)
        written.rename(output)
    expected = {}
    for beams in (1, 4):
        expected[beams] = decode(oracle, *pad(SOURCES), beams)
    (FORMATS / f"{number}.json").write_text(
        json.dumps({"sources": SOURCES, "lengths": LENGTHS, "ids_by_beams": expected}) + "\n"
    )


def decode(oracle, ids, mask, beams: int) -> list[list[int]]:
    """transformers' ids without start token, eos and padding."""
    import torch

    rows = oracle.generate(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), num_beams=beams,
        **LENGTHS,
    ).tolist()
    return [row[1 : row.index(1, 1)] if 1 in row[1:] else row[1:] for row in rows]


if __name__ == "__main__":
    main()
