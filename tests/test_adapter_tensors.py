"""PEFT LoRA adapters tensor by tensor: what is read, what is summed, and every refusal."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import halves, merged, pairs, refusal, table, write_adapter
from safetensors.numpy import load_file, save_file
from small_checkpoint import save_small
from tolerances import assert_close

from switch_export import checkpoint
from switch_export.adapter import open_adapter
from switch_export.checkpoint import find_checkpoint
from switch_export.errors import ExportError
from switch_export.lora import merge
from switch_export.readers import LazyTensor
from switch_export.weights import open_weights

QUERY = "encoder.block.0.layer.0.SelfAttention.q"


@pytest.fixture
def small(tmp_path) -> Path:
    return save_small(tmp_path / "small", tie_word_embeddings=False)


# Names and types of the file.


@pytest.mark.parametrize("infix", ["", ".default", ".a_name"])
def test_the_name_of_the_adapter_may_be_in_the_names_of_its_tensors(small, tmp_path, infix):
    state = load_file(small / "model.safetensors")
    module, head = "decoder.block.0.layer.0.SelfAttention.k", np.ones((40, 16), np.float32)
    tensors = pairs(state, (module,), infix=infix)
    saved = f"lm_head.modules_to_save{infix}.weight" if infix else "lm_head.weight"
    adapter = write_adapter(tmp_path / "adapter", tensors | {saved: head},
                            modules_to_save=["lm_head"])
    found = table(small, adapter)
    plain = {name.replace(infix, ""): value for name, value in tensors.items()}
    name = f"{module}.weight"
    assert_close(found[name], merged(state, plain, {module: 2.0})[name])
    assert np.array_equal(found["lm_head.weight"], head)
    assert all(np.array_equal(found[n], state[n]) for n in set(found) - {name, "lm_head.weight"})


def test_halves_in_float16_over_a_bfloat16_model_are_added_in_float32(small, tmp_path):
    model = {name: torch.from_numpy(value).bfloat16()
             for name, value in load_file(small / "model.safetensors").items()}
    from safetensors.torch import save_file as save_torch

    save_torch(model, small / "model.safetensors")
    state = {name: value.float().numpy() for name, value in model.items()}
    module = "encoder.block.0.layer.0.SelfAttention.v"
    tensors = {n: value.astype(np.float16) for n, value in pairs(state, (module,)).items()}
    found = table(small, write_adapter(tmp_path / "adapter", tensors))
    name = f"{module}.weight"
    assert_close(found[name], merged(state, tensors, {module: 2.0})[name])
    assert np.abs(found[name] - found[name].astype(np.float16)).max() > 0


def test_fan_in_fan_out_changes_nothing_as_peft_resets_it_for_linear_layers(small, tmp_path):
    state = load_file(small / "model.safetensors")
    module = "encoder.block.0.layer.1.mlp.wi"
    tensors = pairs(state, (module,))
    found = table(small, write_adapter(tmp_path / "adapter", tensors, fan_in_fan_out=True))
    expected = merged(state, tensors, {module: 2.0})
    assert_close(found[f"{module}.weight"], expected[f"{module}.weight"])


def test_a_pattern_matches_the_end_of_a_path_and_the_first_one_wins(small, tmp_path):
    state = load_file(small / "model.safetensors")
    q, k = (f"encoder.block.0.layer.0.SelfAttention.{part}" for part in "qk")
    tensors = pairs(state, (q, k))
    adapter = write_adapter(
        tmp_path / "adapter", tensors,
        alpha_pattern={"SelfAttention": 100, "elfAttention.q": 100, "SelfAttention.q": 12, "q": 3},
    )
    found, expected = table(small, adapter), merged(state, tensors, {q: 12 / 3, k: 6 / 3})
    for module in (q, k):
        assert_close(found[f"{module}.weight"], expected[f"{module}.weight"])


def test_merging_reads_a_weight_only_when_it_is_asked_for(tmp_path):
    def never():
        raise AssertionError("the weights of the model were read")

    names = ("encoder.block.0.layer.0.SelfAttention.q", "encoder.block.1.layer.0.SelfAttention.q")
    tensors = {
        f"{name}.weight": LazyTensor(f"{name}.weight", (8, 16), "float32", "model", never)
        for name in names
    }
    state = {f"{name}.weight": np.ones((8, 16), np.float32) for name in names}
    adapter = open_adapter(str(write_adapter(tmp_path / "adapter", pairs(state, names[:1]))))
    found = merge(adapter, tensors, tied=True)
    assert found[f"{names[1]}.weight"] is tensors[f"{names[1]}.weight"]
    with pytest.raises(AssertionError, match="were read"):
        found[f"{names[0]}.weight"].read()


# Embeddings.


def test_a_head_saved_whole_unties_a_tied_model(tiny_checkpoint, tmp_path):
    state = load_file(tiny_checkpoint / "model.safetensors")
    head = (state["shared.weight"][::-1] * 0.7).copy()
    adapter = write_adapter(
        tmp_path / "adapter", pairs(state, (QUERY,)) | {"lm_head.weight": head},
        modules_to_save=["lm_head"],
    )
    found = table(tiny_checkpoint, adapter)
    assert np.array_equal(found["lm_head.weight"], head)
    assert np.array_equal(found["shared.weight"], state["shared.weight"])


def test_an_embedding_of_one_stack_saved_whole_leaves_the_others(tmp_path):
    small = save_small(tmp_path / "tied")
    state = load_file(small / "model.safetensors")
    state["encoder.embed_tokens.weight"] = state.pop("shared.weight")  # any of its names
    save_file(state, small / "model.safetensors")
    name = "encoder.embed_tokens.modules_to_save.default.weight"
    other = -state["encoder.embed_tokens.weight"]
    adapter = write_adapter(
        tmp_path / "adapter", pairs(state, ("encoder.block.0.layer.0.SelfAttention.q",))
        | {name: other},
    )
    found = open_weights(find_checkpoint(str(small), adapter=str(adapter)), "seq2seq")
    values = {role: found.weights[weight].load().numpy()
              for role, weight in found.embeddings.items()}
    assert np.array_equal(values["encoder"], other)
    for role in ("decoder", "head"):
        assert np.array_equal(values[role], state["encoder.embed_tokens.weight"])


@pytest.mark.parametrize("tensors", [
    {"lm_head.lora_A.weight": (3, 16), "lm_head.lora_B.weight": (40, 3)},
    {"shared.lora_embedding_A": (3, 40), "shared.lora_embedding_B": (16, 3)},
    {"encoder.embed_tokens.lora_embedding_A": (3, 40),
     "encoder.embed_tokens.lora_embedding_B": (16, 3)},
])
def test_a_pair_for_one_of_the_tied_embeddings_is_refused(tmp_path, tensors):
    small = save_small(tmp_path / "tied")
    values = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
    message = refusal(small, write_adapter(tmp_path / "adapter", values))
    assert "one of the tied embeddings" in message
    assert "merge_and_unload" in message


def test_a_tied_embedding_that_was_saved_but_not_trained_is_accepted_and_only_then(tmp_path):
    small = save_small(tmp_path / "tied")
    state = load_file(small / "model.safetensors")
    tensors = pairs(state, ("encoder.block.0.layer.0.SelfAttention.q",))
    tensors["shared.weight"] = state["shared.weight"]
    assert len(table(small, write_adapter(tmp_path / "adapter", tensors))) == len(state)
    tensors["shared.weight"] = state["shared.weight"] + 1
    assert "which of them it is for is not certain" in refusal(
        small, write_adapter(tmp_path / "adapter", tensors)
    )


def test_the_base_layer_of_an_untied_head_comes_before_its_pair(small, tmp_path):
    state = load_file(small / "model.safetensors")
    tensors = pairs(state, ("lm_head",))
    base = -state["lm_head.weight"]
    adapter = write_adapter(tmp_path / "adapter", tensors | {"lm_head.base_layer.weight": base})
    expected = merged(state | {"lm_head.weight": base}, tensors, {"lm_head": 2.0})
    assert_close(table(small, adapter)["lm_head.weight"], expected["lm_head.weight"])


def test_a_pair_for_an_embedding_that_is_not_read_is_refused(small, tmp_path):
    a, b = halves((16, 40), 3, 0)
    adapter = write_adapter(
        tmp_path / "adapter", {"shared.lora_embedding_A": a, "shared.lora_embedding_B": b}
    )
    message = refusal(small, adapter)
    assert "shared.weight, which is not read: encoder.embed_tokens.weight and decoder." in message


# Refusals.


def test_every_reason_why_a_file_cannot_be_merged_comes_in_one_message(small, tmp_path):
    state = load_file(small / "model.safetensors")
    block = "encoder.block.0.layer.0.SelfAttention"
    tensors = pairs(state, (f"{block}.k", f"{block}.v", f"{block}.o", f"{block}.q"))
    tensors |= {
        f"{block}.q.bias": np.ones(8, np.float32),
        "encoder.block.9.layer.0.SelfAttention.q.lora_A.weight": np.ones((3, 16), np.float32),
        "encoder.block.9.layer.0.SelfAttention.q.lora_B.weight": np.ones((8, 3), np.float32),
        "shared.weight": np.ones((43, 16), np.float32),
        f"{block}.q.lora_magnitude_vector": np.ones(8, np.float32),
    }
    del tensors[f"{block}.k.lora_A.weight"]
    tensors[f"{block}.v.lora_B.weight"][1, 2] = np.nan
    tensors[f"{block}.o.lora_A.weight"] = np.ones((3, 9), np.float32)
    message = refusal(small, write_adapter(
        tmp_path / "adapter", tensors, peft_type="LOHA", use_dora=True, bias="all",
        lora_bias=True, layer_replication=[[0, 2], [1, 2]], init_lora_weights="pissa_niter_4",
    ))
    expected = [
        "peft_type is 'LOHA', expected 'LORA'", "use_dora is true: DoRA", "bias is 'all'",
        "lora_bias is true", "layer_replication is [[0, 2], [1, 2]]: it repeats layers",
        "init_lora_weights is 'pissa_niter_4'",
        f"{block}.q.bias [8] matches no weight: this model's layers have no biases",
        "block.9.layer.0.SelfAttention.q.lora_A.weight and lora_B match no weight",
        "shared.weight [43, 16] does not fit shared.weight [40, 16]; the vocabulary was resized",
        f"{block}.q.lora_magnitude_vector [8] matches no weight",
        f"{block}.k.lora_B.weight has no lora_A", f"{block}.v.lora_B.weight holds 1 NaN",
        f"{block}.o.lora_A.weight [3, 9] and lora_B [16, 3] do not fit",
    ]
    for reason in expected:
        assert reason in message, reason
    assert message.count("\n  - ") == len(expected)


def test_a_rank_that_is_not_the_configurations_is_refused(small, tmp_path):
    state = load_file(small / "model.safetensors")
    module = "encoder.block.0.layer.0.SelfAttention.q"
    message = refusal(small, write_adapter(tmp_path / "adapter", pairs(state, (module,)), r=4))
    assert "and rank 4, expected [4, 16] and [8, 4]" in message


def test_a_file_without_pairs_is_refused(small, tmp_path):
    state = load_file(small / "model.safetensors")
    adapter = write_adapter(tmp_path / "adapter", {"lm_head.weight": state["lm_head.weight"]},
                            modules_to_save=["lm_head"])
    assert "holds no pairs of lora_A and lora_B" in refusal(small, adapter)


def test_an_adapter_without_a_weights_file_is_refused(small, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", {})
    (adapter / "adapter_model.safetensors").unlink()
    assert "expected one of adapter_model.safetensors, adapter_model.bin" in refusal(small, adapter)


@pytest.mark.parametrize(("fields", "reason"), [
    ({"r": 0}, "the rank (r, rank_pattern) is 0, expected an integer from 1 up"),
    ({"alpha_pattern": {"lm_head": "2"}}, "lora_alpha or alpha_pattern is '2', expected a number"),
    ({"rank_pattern": {"(": 2}}, "rank_pattern has '(', which is no regular expression"),
])
def test_a_scale_that_cannot_be_computed_is_refused(small, tmp_path, fields, reason):
    tensors = pairs(load_file(small / "model.safetensors"), ("lm_head",))
    assert reason in refusal(small, write_adapter(tmp_path / "adapter", tensors, **fields))


def test_two_adapters_in_one_file_are_refused(small, tmp_path):
    state = load_file(small / "model.safetensors")
    tensors = pairs(state, ("lm_head",), infix=".one") | pairs(state, ("lm_head",), infix=".two")
    message = refusal(small, write_adapter(tmp_path / "adapter", tensors))
    assert message.count("are one half of a pair twice") == 2


def test_a_configuration_that_is_not_json_is_refused(small, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", {})
    (adapter / "adapter_config.json").write_text('["LORA"')
    assert "adapter_config.json cannot be read" in refusal(small, adapter)


def test_a_truncated_file_is_refused(small, tmp_path):
    state = load_file(small / "model.safetensors")
    adapter = write_adapter(tmp_path / "adapter", pairs(state, ("lm_head",)))
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert "adapter_model.safetensors cannot be read" in refusal(small, adapter)


@pytest.mark.parametrize(("base", "reason"), [
    (None, "does not name its model; pass the model as --model"),
    ("./gone", "the model of the adapter .*: './gone' is not a directory"),
])
def test_an_adapter_alone_whose_model_is_not_found_says_how_to_name_it(tmp_path, base, reason):
    adapter = write_adapter(tmp_path / "adapter", {}, base_model_name_or_path=base)
    with pytest.raises(ExportError, match=reason) as caught:
        find_checkpoint(str(adapter))
    assert re.search("--model and .* as --adapter", str(caught.value))


@pytest.mark.parametrize(("asked", "expected"), [(None, "v2"), ("main", "main")])
def test_the_model_of_an_adapter_alone_may_be_a_hub_model_with_a_revision(
    small, tmp_path, monkeypatch, asked, expected
):
    adapter = write_adapter(
        tmp_path / "adapter", {}, base_model_name_or_path="someone/model", revision="v2"
    )
    seen = []
    monkeypatch.setattr(checkpoint, "resolve", lambda *named: seen.append(named) or small)
    found = find_checkpoint(str(adapter), asked)
    assert seen == [("someone/model", expected)]
    assert (found.name, found.adapter.name) == ("someone/model", str(adapter))


def test_a_directory_that_is_no_adapter_is_refused(small):
    with pytest.raises(ExportError, match=r"not a directory that holds adapter_config\.json"):
        find_checkpoint(str(small), adapter=str(small))
