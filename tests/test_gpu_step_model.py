"""The decoder that `make gpu-test` and `make gpu-bench` build of the CUDA kernels, without a GPU.

Its calls go to plain PyTorch here: that leaves weights, biases, caches and the order of calls.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import SwitchTransformersForConditionalGeneration

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "examples" / "switch-tiny"
sys.path.insert(0, str(ROOT / "benchmarks"))

from switch_gpu_bench import encode, greedy, ops, step, torch_ops, weights  # noqa: E402

NEW = 24  # tokens


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(TINY / "spiece.model"))
    lines = (TINY / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    return [pieces.encode(json.loads(line)["text"], add_eos=True) for line in lines[::40]]


@pytest.fixture(scope="module")
def model():
    return weights.load(TINY, "fp32", "cpu", rounded=False)


def expected(rows: list[list[int]], dtype: torch.dtype) -> list[list[int]]:
    """Greedy ids of transformers."""
    theirs = SwitchTransformersForConditionalGeneration.from_pretrained(TINY, dtype=dtype).eval()
    ids, mask = greedy.pad(rows, 0, "cpu")
    out = theirs.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, num_beams=1
    )
    return [greedy.until_end(row[1:], (1,)) for row in out.tolist()]


def test_greedy_ids_are_those_of_transformers(model, rows):
    found = greedy.generate(model, torch_ops.TorchOps(), rows, NEW)
    assert found == expected(rows, torch.float32)


def test_greedy_ids_in_bf16_are_those_of_transformers_in_bf16(rows):
    half = weights.load(TINY, "bf16", "cpu", rounded=True)
    found = greedy.generate(half, torch_ops.TorchOps(), rows, NEW)
    assert found == expected(rows, torch.bfloat16)


@torch.inference_mode()
def test_logits_of_every_step_are_those_of_transformers(model, rows):
    """Ids alone forgive much: this model is sure of them."""
    encoder, decoder = model
    some, calls = rows[:4], torch_ops.TorchOps()
    ids, mask = greedy.pad(some, 0, "cpu")
    target = torch.randint(2, 300, (len(some), NEW), generator=torch.Generator().manual_seed(1))
    target[:, 0] = 0
    theirs = SwitchTransformersForConditionalGeneration.from_pretrained(TINY).eval()
    logits = theirs(input_ids=ids, attention_mask=mask, decoder_input_ids=target).logits
    source = step.Source(encode.encode(encoder, calls, ids, mask), mask)
    one = step.Step(decoder, calls, source, len(some), NEW)
    for place in range(NEW):
        one.ids.copy_(target[:, place])
        one.run()
        error = (one.logits - logits[:, place]).abs().max() / logits.abs().max()
        assert error < 1e-5, f"step {place}"


@torch.inference_mode()
def test_rows_that_share_a_source_decode_as_that_source_does(model, rows):
    encoder, decoder = model
    some, calls = rows[:3], torch_ops.TorchOps()
    ids, mask = greedy.pad(some, 0, "cpu")
    source = step.Source(encode.encode(encoder, calls, ids, mask), mask)
    one, two = (step.Step(decoder, calls, source, n * len(some), 8) for n in (1, 2))
    for _ in range(6):
        one.run()
        two.run()
        assert two.ids.tolist() == [token for token in one.ids.tolist() for _ in range(2)]
    torch.testing.assert_close(two.logits[::2], one.logits)


@torch.inference_mode()
def test_a_restart_forgets_what_was_cached(model, rows):
    encoder, decoder = model
    calls = torch_ops.TorchOps()
    ids, mask = greedy.pad(rows[:2], 0, "cpu")
    one = step.Step(
        decoder, calls, step.Source(encode.encode(encoder, calls, ids, mask), mask), 2, 8
    )
    runs = []
    for _ in range(2):
        one.restart()
        found = []
        for _ in range(5):
            one.run()
            found.append(one.ids.clone())
        runs.append(torch.stack(found))
    assert torch.equal(*runs)


def test_the_stand_in_has_the_methods_of_the_kernels():
    def methods(cls: type) -> dict[str, str]:
        tree = ast.parse(Path(sys.modules[cls.__module__].__file__).read_text())
        body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
        return {
            node.name: ast.unparse(node.args) for node in body.body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        }

    assert methods(ops.CudaOps) == methods(torch_ops.TorchOps)


def run(*arguments: object, **environment: str) -> str:
    """Run Python in this checkout; its output."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")} | environment,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_tests_for_a_gpu_pass_over_plain_pytorch():
    printed = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "tests/gpu/pytest.ini", "tests/gpu",
        "--trial",
    )
    assert "tests passed on plain PyTorch, NOT on a GPU" in printed


def test_without_a_gpu_the_tests_for_one_end_with_an_error():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = [sys.executable, "-m", "pytest", "-c", "tests/gpu/pytest.ini", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no CUDA device" in done.stdout + done.stderr


def test_the_benchmark_tries_its_code_without_a_gpu(tmp_path):
    output = tmp_path / "gpu.jsonl"
    printed = run(
        "-m", "switch_gpu_bench", "--dry-run", "--stages", "ours", "peers", "steps", "--only",
        "1 tokens, 8 experts, bf16", "--output", output, "--state", tmp_path / "state",
        "--seconds", 300, CUDA_VISIBLE_DEVICES="",
    )
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row.get("failed") for row in found if "failed" in row] == []
    engines = {row.get("engine") for row in found if row["measure"] == "layer"}
    assert {"ours", "ours, routed", "torch._grouped_mm", "dense cuBLAS"} <= engines
    assert all(row["error"] < 1e-2 for row in found if row.get("checked"))
    assert "base-8 step, batch 1: ours, one graph" in printed
