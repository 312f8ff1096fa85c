"""PEFT LoRA adapters in whole exports, against transformers' models on the merged weights."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import copy_with, halves, merged, pairs, write_adapter
from checkpoints import Variant, load_oracle, make_checkpoint, random_rows
from safetensors.numpy import load_file
from tolerances import assert_close

import switch_export
import switch_runtime

QUERY = "encoder.block.0.layer.0.SelfAttention.q"
CROSS = "decoder.block.1.layer.1.EncDecAttention.v"
DENSE = "encoder.block.0.layer.1.mlp.wi"
EXPERT = "encoder.block.1.layer.1.mlp.experts.expert_1.wo"
OTHER_EXPERT = "decoder.block.1.layer.2.mlp.experts.expert_3.wi"
OUT = "decoder.block.0.layer.0.SelfAttention.o"
MODULES = (QUERY, CROSS, DENSE, EXPERT, OTHER_EXPERT, OUT)


def assert_decodes_as(directory: Path, checkpoint: Path) -> np.ndarray:
    """The exported directory gives transformers' logits of `checkpoint`; gives those."""
    source, target = random_rows(6, (17, 9))
    oracle = load_oracle(checkpoint)
    with torch.no_grad():
        expected = oracle(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, *target[:-1]]])
        ).logits[0].numpy()
    with switch_runtime.load(directory) as model:
        assert_close(model.forward(source, target), expected)
    return expected


@pytest.fixture(scope="module")
def untied(tmp_path_factory) -> Path:
    return make_checkpoint(
        tmp_path_factory.mktemp("untied") / "model",
        Variant({"tie_word_embeddings": False}, seed=5),
    )


def test_an_adapter_of_attentions_dense_layers_and_experts_decodes_as_the_merged_model(
    tiny_checkpoint, tmp_path
):
    state = load_file(tiny_checkpoint / "model.safetensors")
    tensors = pairs(state, MODULES)
    adapter = write_adapter(tmp_path / "adapter", tensors)
    summary = switch_export.export(
        str(tiny_checkpoint), tmp_path / "out", adapter=str(adapter), verify=True
    )
    assert summary.verification.error < 1e-4
    other = copy_with(
        tmp_path / "merged", tiny_checkpoint,
        merged(state, tensors, dict.fromkeys(MODULES, 6 / 3)),
    )
    expected = assert_decodes_as(tmp_path / "out", other)
    plain = load_oracle(tiny_checkpoint)
    source, target = random_rows(6, (17, 9))
    with torch.no_grad():
        before = plain(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, *target[:-1]]])
        ).logits[0].numpy()
    assert np.abs(before - expected).max() > 0.1 * np.abs(expected).max()
    described = json.loads((tmp_path / "out" / "switch.json").read_text())
    assert described["source"] == {
        "model": str(tiny_checkpoint), "revision": None, "adapter": str(adapter),
        "repairs": [],
    }


def test_an_adapter_alone_with_patterns_rslora_and_saved_modules_decodes_as_the_merged_model(
    untied, tmp_path, monkeypatch
):
    state = load_file(untied / "model.safetensors")
    router = "encoder.block.1.layer.1.mlp.router.classifier.weight"
    head = np.random.default_rng(2).normal(size=state["lm_head.weight"].shape) * 0.2
    saved = {
        "lm_head.weight": head.astype(np.float32), router: -state[router],
        "encoder.final_layer_norm.weight": 1.5 * state["encoder.final_layer_norm.weight"],
    }
    ranks = {CROSS: 5, EXPERT: 1}
    tensors = pairs(state, MODULES, ranks)
    embedding = "encoder.embed_tokens"
    a, b = halves((32, 131), 3, 9)  # of the transposed embedding: A [r, V], B [D, r]
    tensors |= {f"{embedding}.lora_embedding_A": a, f"{embedding}.lora_embedding_B": b}
    adapter = write_adapter(
        tmp_path / "style", tensors | saved, extension="bin", use_rslora=True,
        rank_pattern={r"EncDecAttention\.v": 5, r"expert_\d+.wo": 1},
        alpha_pattern={"o": 9, r"block\.0\.layer\.1\.mlp\.wi": 2},
        modules_to_save=["lm_head", "router", "final_layer_norm"],
        base_model_name_or_path=str(untied),
    )
    monkeypatch.chdir(tmp_path)
    summary = switch_export.export(str(adapter), verify=False)
    assert (summary.path, summary.adapter) == (Path("style-onnx"), str(adapter))
    scales = {
        module: {OUT: 9, DENSE: 2}.get(module, 6) / math.sqrt(ranks.get(module, 3))
        for module in MODULES
    }
    expected = merged(state, tensors, scales) | saved
    total = state[f"{embedding}.weight"] + 6 / math.sqrt(3) * (b @ a).T
    expected[f"{embedding}.weight"] = total.astype(np.float32)
    assert_decodes_as(summary.path, copy_with(tmp_path / "merged", untied, expected))
    described = json.loads((summary.path / "switch.json").read_text())
    assert described["source"] == {
        "model": str(untied), "revision": None, "adapter": str(adapter),
        "repairs": [],
    }


def test_quantised_precisions_quantise_the_merged_weights(tiny_checkpoint, tmp_path):
    state = load_file(tiny_checkpoint / "model.safetensors")
    tensors = pairs(state, (QUERY, EXPERT))
    adapter = write_adapter(tmp_path / "adapter", tensors)
    other = copy_with(
        tmp_path / "merged", tiny_checkpoint,
        merged(state, tensors, dict.fromkeys((QUERY, EXPERT), 2.0)),
    )
    options = {"precision": "int8", "task": "encoder", "verify": False}
    switch_export.export(
        str(tiny_checkpoint), tmp_path / "one", adapter=str(adapter), **options
    )
    switch_export.export(str(other), tmp_path / "two", **options)
    one, two = (np.fromfile(tmp_path / name / "weights.bin", np.uint8) for name in ("one", "two"))
    # A sum in float32 may round to the code beside that of the sum in float64 now and then.
    assert (one != two).mean() < 1e-3
    changed = sum(state[f"{module}.weight"].size for module in (QUERY, EXPERT))
    assert changed / one.size > 1e-2
