"""Checkpoints in the layout of switch-xxl-128 and switch-c-2048, whose config.json is wrong.

They are small, with exactly the names of the real ones; what the repaired models compute is
compared with the NumPy reference, which is told the truth.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from adapters import merged, pairs, write_adapter
from checkpoints import pad, random_rows
from tolerances import assert_close

import switch_export
import switch_runtime
from switch_export.checkpoint import find_checkpoint
from switch_export.errors import UnsupportedCheckpoint
from switch_export.weights import open_weights

SIZES = {
    "d_model": 16, "d_ff": 24, "d_kv": 6, "num_heads": 2, "vocab_size": 60,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
}
COMMON = SIZES | {
    "model_type": "switch_transformers",
    "architectures": ["SwitchTransformersForConditionalGeneration"],
    "expert_capacity": 4, "layer_norm_epsilon": 1e-6, "pad_token_id": 0, "eos_token_id": 1,
    "decoder_start_token_id": 0, "router_bias": False, "router_dtype": "float32",
}
# As published, scaled down: 48 and 12 blocks for 24 and 24; a plain gelu; nothing of the head.
XXL = COMMON | {
    "num_layers": 8, "num_decoder_layers": 2, "encoder_sparse_step": 2, "decoder_sparse_step": 2,
    "num_sparse_encoder_layers": 4, "num_sparse_decoder_layers": 1, "num_experts": 4,
    "dense_act_fn": "gelu",
}
XXL_TRUTH = XXL | {
    "num_layers": 4, "num_decoder_layers": 4, "dense_act_fn": "gated-gelu",
    "tie_word_embeddings": False,
}
# 15 and 12 blocks for 15 and 15, steps 1 and 0 for 1 and 1.
C = COMMON | {
    "num_layers": 3, "num_decoder_layers": 2, "encoder_sparse_step": 1, "decoder_sparse_step": 0,
    "num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 0, "num_experts": 5,
    "dense_act_fn": "relu",
}
C_TRUTH = C | {"num_decoder_layers": 3, "decoder_sparse_step": 1, "tie_word_embeddings": False}
ROWS = random_rows(4, (9, 3, 6), vocab_size=60)


def tensors_of(truth: dict) -> dict[str, np.ndarray]:
    """Random weights under the names that the old converter of T5X's big models wrote."""
    chance = np.random.default_rng(7)
    d_model, d_ff = truth["d_model"], truth["d_ff"]
    inner = truth["num_heads"] * truth["d_kv"]
    names: dict[str, tuple[int, ...]] = {
        "shared.weight": (truth["vocab_size"], d_model),
        "decoder.lm_head.weight": (truth["vocab_size"], d_model),
    }
    parts = reference.mlp_parts(truth["dense_act_fn"])
    for stack, layers in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
        names[f"{stack}.final_layer_norm.weight"] = (d_model,)
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        names[bias] = (truth["relative_attention_num_buckets"], truth["num_heads"])
        step = truth[f"{stack}_sparse_step"]
        kinds = ["SelfAttention"] + ["EncDecAttention"] * (stack == "decoder")
        for i in range(truth[layers]):
            for j, kind in enumerate(kinds):
                layer = f"{stack}.block.{i}.layer.{j}"
                names |= {f"{layer}.{kind}.{part}.weight": (inner, d_model) for part in "qkv"}
                names[f"{layer}.{kind}.o.weight"] = (d_model, inner)
                names[f"{layer}.layer_norm.weight"] = (d_model,)
            layer = f"{stack}.block.{i}.layer.{len(kinds)}"
            names[f"{layer}.layer_norm.weight"] = (d_model,)
            mlps = [f"{layer}.mlp"]
            if step == 1 or i % step == 1:
                names[f"{layer}.mlp.router.classifier.weight"] = (truth["num_experts"], d_model)
                mlps = [f"{layer}.mlp.experts.expert_{e}" for e in range(truth["num_experts"])]
            for mlp in mlps:
                for part in parts:
                    shape = (d_model, d_ff) if part == "wo" else (d_ff, d_model)
                    names[f"{mlp}.{part}.weight"] = shape
    return {
        name: 1 + chance.normal(0, 0.1, shape) if "layer_norm" in name
        else chance.normal(0, shape[-1] ** -0.5, shape)
        for name, shape in names.items()
    }


def write(folder: Path, config: dict, tensors: dict[str, np.ndarray]) -> Path:
    """A checkpoint in two `.bin` shards, as the real ones are."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    names, weight_map = sorted(tensors), {}
    for number in (1, 2):
        shard = f"pytorch_model-{number:05}-of-00002.bin"
        part = names[number - 1 :: 2]
        weight_map |= dict.fromkeys(part, shard)
        torch.save({name: torch.tensor(tensors[name], dtype=torch.float32) for name in part},
                   folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture(scope="module", params=["xxl", "c"])
def layout(request, tmp_path_factory):
    """(checkpoint, its tensors, the true configuration)."""
    said, truth = {"xxl": (XXL, XXL_TRUTH), "c": (C, C_TRUTH)}[request.param]
    tensors = tensors_of(truth)
    folder = tmp_path_factory.mktemp("repair") / request.param
    return write(folder, said, tensors), tensors, truth


def test_without_repair_every_contradiction_is_named(layout):
    checkpoint, _, truth = layout
    with pytest.raises(UnsupportedCheckpoint) as caught:
        switch_export.export(str(checkpoint), checkpoint.parent / "never", verify=False)
    message = str(caught.value)
    layers = f"num_decoder_layers: 2 -> {truth['num_decoder_layers']} (decoder.block."
    for part in (layers, "tie_word_embeddings: true -> false", "--repair"):
        assert part in message
    assert ("is_gated: false -> true" in message) == (truth is XXL_TRUTH)
    assert not (checkpoint.parent / "never").exists()


def test_a_repaired_model_computes_what_the_reference_computes_with_the_truth(layout):
    checkpoint, tensors, truth = layout
    output = checkpoint.parent / f"{checkpoint.name}-onnx"
    summary = switch_export.export(str(checkpoint), output, repair=True, verify=True)
    renamed = dict(tensors)
    renamed["lm_head.weight"] = renamed.pop("decoder.lm_head.weight")
    model = reference.Model(truth, renamed)
    target = [5, 9, 30, 2]
    with switch_runtime.load(output) as loaded:
        described = loaded.describe()["switch_json"]
        for row in ROWS:
            ids, mask = (np.array(part) for part in pad([row]))
            read = np.array([[0, *target[:-1]]])
            hidden = model.decode(read, model.encode(ids, mask), mask, cached=False)
            assert_close(loaded.forward(row, target), model.logits(hidden)[0])
    assert described["source"]["repairs"] == [str(repair) for repair in summary.repairs]
    assert any("num_decoder_layers: 2 ->" in repair for repair in summary.repairs)
    assert described["model"]["num_decoder_layers"] == truth["num_decoder_layers"]


def test_a_sound_checkpoint_has_nothing_to_repair(tiny_checkpoint, tmp_path):
    summary = switch_export.export(
        str(tiny_checkpoint), tmp_path / "out", repair=True, verify=False, task="encoder"
    )
    assert summary.repairs == []


def test_a_gated_checkpoint_that_says_so_needs_no_repair(tmp_path):
    truth = XXL_TRUTH | {"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2}
    checkpoint = write(tmp_path / "said", truth, tensors_of(truth))
    output = tmp_path / "out"
    switch_export.export(str(checkpoint), output, task="encoder", verify=False)
    model = reference.Model(truth, tensors_of(truth))
    ids, mask = (np.array(part) for part in pad(ROWS[:1]))
    with switch_runtime.load(output) as loaded:
        assert_close(loaded.encode(ROWS[:1])[0], model.encode(ids, mask)[0])


@pytest.mark.parametrize("rows", [None, 25])
def test_half_a_gate_is_listed_as_what_it_is(tmp_path, rows):
    tensors = tensors_of(XXL_TRUTH)
    mlp = "encoder.block.0.layer.1.mlp"
    first = tensors[f"{mlp}.wi_0.weight"]
    del tensors[f"{mlp}.wi_1.weight"]
    if rows:  # together they have the rows of two halves
        tensors[f"{mlp}.wi_0.weight"] = first[: 48 - rows]
        tensors[f"{mlp}.wi_1.weight"] = np.ones((rows, 16))
    checkpoint = write(tmp_path / "half", XXL, tensors)
    with pytest.raises(UnsupportedCheckpoint) as caught:
        switch_export.export(str(checkpoint), tmp_path / "out", repair=True, verify=False)
    assert f"{mlp}.wi.weight is missing, expected shape [48, 16]" in str(caught.value)
    assert f"{mlp}.wi_0.weight [{48 - rows if rows else 24}, 16] is not used" in str(caught.value)


def test_an_adapter_of_a_repaired_gate_is_merged_into_its_own_half(tmp_path):
    tensors = {name: value.astype(np.float32) for name, value in tensors_of(XXL_TRUTH).items()}
    dense, expert = "encoder.block.0.layer.1.mlp", "decoder.block.1.layer.2.mlp.experts"
    modules = (f"{dense}.wi_0", f"{expert}.expert_2.wi_1")
    halves = pairs(tensors, modules)
    checkpoint = find_checkpoint(
        str(write(tmp_path / "model", XXL, tensors)), repair=True,
        adapter=str(write_adapter(tmp_path / "adapter", halves)),
    )
    weights = open_weights(checkpoint, "seq2seq").weights
    expected = merged(tensors, halves, dict.fromkeys(modules, 6 / 3))
    for found, mlp in (
        (weights[f"{dense}.wi.weight"].load(), dense),
        (weights[f"{expert}.wi"].load_part(2), f"{expert}.expert_2"),
    ):
        assert_close(
            found, np.concatenate([expected[f"{mlp}.{half}.weight"] for half in ("wi_0", "wi_1")])
        )
