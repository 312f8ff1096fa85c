"""The demo model, from its checkpoint to text, through the commands that users type."""

import json
import os
import subprocess
import sys

import pytest
import torch
from checkpoints import load_oracle, pad
from conftest import ROOT

CHECKPOINT = ROOT / "examples" / "switch-tiny"
SENTENCE = "the third of march nineteen eighty seven"


def command(module: str, *arguments: object) -> str:
    """Run a command line as its entry point does; its standard output."""
    result = subprocess.run(
        [sys.executable, "-c", f"from {module}.cli import main; main()", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=300, check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """examples/switch-tiny, exported by the command."""
    output = tmp_path_factory.mktemp("switch-tiny") / "exported"
    printed = command("switch_export", "--model", CHECKPOINT, "--output", output)
    assert printed.splitlines()[-1] == str(output)
    return output


@pytest.fixture(scope="module")
def held_out() -> list[dict]:
    """200 sentences, spread over the domains."""
    lines = (CHECKPOINT / "held_out.jsonl").read_text().splitlines()
    chosen = [json.loads(line) for line in lines[:: max(1, len(lines) // 200)][:200]]
    assert len(chosen) == 200
    assert len({row["domain"] for row in chosen}) >= 4
    return chosen


def test_the_commands_turn_words_into_a_date(exported):
    assert command("switch_runtime", exported, SENTENCE).strip() == "1987-03-03"


@pytest.mark.parametrize("num_beams", [1, 4])
def test_ids_and_text_are_those_of_transformers(exported, held_out, num_beams):
    import switch_runtime

    model, oracle = switch_runtime.load(exported), load_oracle(CHECKPOINT)
    texts = [row["text"] for row in held_out]
    rows = [list(model.tokenizer.encode(text)) for text in texts]
    results = model.generate(rows, num_beams=num_beams, max_new_tokens=24)
    for start in range(0, len(rows), 50):
        ids, mask = pad(rows[start : start + 50])
        sequences = oracle.generate(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask),
            num_beams=num_beams, max_new_tokens=24,
        ).tolist()
        for result, row in zip(results[start : start + 50], sequences, strict=True):
            given = result.token_ids + ([] if result.eos is None else [result.eos])
            assert row[1 : 1 + len(given)] == given
            assert set(row[1 + len(given) :]) <= {0, 1}
    right = sum(r.text == row["expected"] for r, row in zip(results, held_out, strict=True))
    assert right >= 190
