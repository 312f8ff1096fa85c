"""The demo model, from its checkpoint to text, through the commands that users type."""

import json

import pytest
import torch
from checkpoints import load_oracle, pad
from conftest import ROOT, command

CHECKPOINT = ROOT / "examples" / "switch-tiny"
SENTENCE = "the third of march nineteen eighty seven"


@pytest.fixture(scope="module")
def held_out() -> list[dict]:
    """200 sentences, spread over the domains."""
    lines = (CHECKPOINT / "held_out.jsonl").read_text().splitlines()
    chosen = [json.loads(line) for line in lines[:: max(1, len(lines) // 200)][:200]]
    assert len(chosen) == 200
    assert len({row["domain"] for row in chosen}) >= 4
    return chosen


def test_the_commands_turn_words_into_a_date(switch_tiny_directory):
    assert command("switch_runtime", switch_tiny_directory, SENTENCE).strip() == "1987-03-03"


@pytest.mark.parametrize("num_beams", [1, 4])
def test_ids_and_text_are_those_of_transformers(switch_tiny_directory, held_out, num_beams):
    import switch_runtime

    model, oracle = switch_runtime.load(switch_tiny_directory), load_oracle(CHECKPOINT)
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
