"""Whole decoders made of the kernels: their logits, and what the demo model decodes."""

import json
from functools import partial

import pytest
import torch
from conftest import ROOT

from switch_export.config import SwitchConfig
from switch_gpu_bench import greedy, steps, weights
from switch_gpu_bench.step import Step
from switch_gpu_bench.timing import DEVICE
from switch_gpu_bench.torch_ops import TorchOps

TINY = ROOT / "examples" / "switch-tiny"
NEW, BATCH = 24, 250  # tokens; rows at once
SHARE = 0.99  # of the rows that must be equal


@pytest.mark.parametrize("rows", [1, 3, 8, 33])
def test_logits_of_replayed_steps_are_those_of_float32(make_ops, rows):
    contents = steps.contents_of_base_8() | {
        "num_layers": 2, "num_decoder_layers": 2, "vocab_size": 4096
    }
    config = SwitchConfig.from_dict(contents)
    _, decoder = weights.random(config, "bf16", DEVICE, 5)
    source = steps.source_for(config, rows)
    source.mask[-1, 9:] = 0
    ours = Step(decoder, make_ops(), source, rows, 16)
    reference = Step(decoder, TorchOps(), source, rows, 16)
    replay = ours.capture()
    for _ in range(4):
        replay()
        reference.run()
        # Where two experts are nearly as likely, half precision may send a row to the other one.
        errors = (ours.logits - reference.logits).double().norm(dim=-1)
        errors /= reference.logits.double().norm(dim=-1)
        assert int((errors > 2e-2).sum()) <= rows // 30, errors
        assert not errors.isnan().any()
        assert torch.equal(ours.position, reference.position)
        ours.ids.copy_(reference.ids)


@pytest.fixture(scope="module")
def rows(place) -> list[list[int]]:
    """Sources of the demo model's held-out cases."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(TINY / "spiece.model"))
    lines = (TINY / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines[:: 1 if place == "a GPU" else 50]]
    return [pieces.encode(text, add_eos=True) for text in texts]


def batches(rows: list) -> list[list]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def theirs(precision: torch.dtype):
    """The demo model in transformers."""
    from transformers import SwitchTransformersForConditionalGeneration as Model

    return Model.from_pretrained(TINY, dtype=precision).eval().to(DEVICE)


def decoded(model, rows: list[list[int]]) -> list[list[int]]:
    """Greedy ids of transformers."""
    ids, mask = greedy.pad(rows, 0, DEVICE)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, num_beams=1
        )
    return [greedy.until_end(row[1:], (1,)) for row in out.tolist()]


def logits(model, source: list[int], prefix: list[int]) -> torch.Tensor:
    """Logits [V] of the token behind `prefix`."""
    ids, target = (torch.tensor([part], device=DEVICE) for part in (source, [0, *prefix]))
    with torch.inference_mode():
        return model(input_ids=ids, decoder_input_ids=target).logits[0, -1].float()


def noise(half, full, rows: list[list[int]], ids: list[list[int]]) -> float:
    """The largest error of bf16 in the two best logits, over the first tokens of some rows."""
    largest = 0.0
    for source, target in list(zip(rows, ids, strict=True))[:: max(1, len(rows) // 40)]:
        for length in range(min(4, len(target))):
            exact = logits(full, source, target[:length])
            best = exact.topk(2).indices
            found = logits(half, source, target[:length])
            largest = max(largest, float((found[best] - exact[best]).abs().max()))
    return largest


def test_greedy_ids_of_the_demo_model_in_bf16_are_those_of_transformers(make_ops, rows, capsys):
    model = weights.load(TINY, "bf16", DEVICE, rounded=True)
    run = partial(greedy.generate, model, make_ops(), tokens=NEW)
    half = theirs(torch.bfloat16)
    ours = [ids for batch in batches(rows) for ids in run(batch)]
    expected = [ids for batch in batches(rows) for ids in decoded(half, batch)]
    different = [i for i in range(len(rows)) if ours[i] != expected[i]]
    with capsys.disabled():
        equal = len(rows) - len(different)
        print(f"\n{equal} of {len(rows)} rows have the ids of transformers in bf16")
    assert len(different) <= (1 - SHARE) * len(rows)
    if not different:
        return
    full = theirs(torch.float32)
    # Two candidates change places where each moves by half of their distance, in ours or theirs.
    limit = 2 * noise(half, full, rows, expected)
    for i in different:
        pairs = zip(ours[i], expected[i], strict=False)
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
        assert same is not None, f"row {i}: one is the beginning of the other"
        best = logits(full, rows[i], expected[i][:same]).topk(2).values
        margin = float(best[0] - best[1])
        assert margin <= limit, f"row {i}, step {same}: margin {margin:.3f}, noise {limit:.3f}"
