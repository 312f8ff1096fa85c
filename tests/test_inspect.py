"""switch-export inspect: what a checkpoint or a model directory is, without reading weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from directories import copy_directory
from small_checkpoint import (
    SIZES,
    edit_config,
    read_state,
    save_small,
    write_bin,
    write_shards,
    write_state,
)

import switch_export
from switch_export import cli
from switch_export.errors import ExportError

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples" / "switch-tiny"
PRECISIONS = ("fp32", "int8", "int4")  # fp16 and bf16 are laid out like fp32
PAGE = 4096


@pytest.fixture
def small(tmp_path):
    return save_small(tmp_path / "small")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One checkpoint of bfloat16, and what an export in each precision made of it."""
    folder = tmp_path_factory.mktemp("inspect")
    path = save_small(folder / "checkpoint", num_layers=1, num_decoder_layers=2, d_ff=40)
    write_state(path, {name: tensor.bfloat16() for name, tensor in read_state(path).items()})
    for precision in PRECISIONS:
        switch_export.export(str(path), folder / precision, precision=precision, verify=False)
    return folder


def invoke(*arguments):
    return CliRunner().invoke(cli.main, ["inspect", *map(str, arguments)])


def numbers(inspection) -> dict[str, int]:
    return {part: count.parameters for part, count in inspection.parts.items()}


def test_the_parameters_of_every_part_follow_from_the_sizes(small):
    d, f, inner = SIZES["d_model"], SIZES["d_ff"], SIZES["d_kv"] * SIZES["num_heads"]
    experts, vocabulary = SIZES["num_experts"], SIZES["vocab_size"]
    attentions, norms = 2 + 2 * 2, (2 * 2 + 1) + (2 * 3 + 1)  # layers x (self, cross, MLP) + final
    assert numbers(switch_export.inspect(small)) == {
        "embeddings": vocabulary * d,
        "attention": attentions * 4 * inner * d,
        "dense MLPs": 2 * 2 * f * d,  # one dense block in each stack
        "experts": 2 * experts * 2 * f * d,
        "routers, norms, biases": 2 * experts * d + norms * d + 2 * 32 * SIZES["num_heads"],
    }


def test_the_stored_types_are_counted(small):
    state = read_state(small)
    half = [name for name in state if "experts" in name]
    write_state(small, state | {name: state[name].half() for name in half})
    types = switch_export.inspect(small).types
    assert types["float16"].tensors == len(half)
    assert types["float16"].bytes == 2 * sum(state[name].numel() for name in half)
    assert types["float32"].bytes == 4 * sum(
        tensor.numel() for name, tensor in state.items() if name not in half
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_size_of_an_export_is_that_of_the_file_it_writes(exported, precision):
    files = switch_export.inspect(exported / "checkpoint").exports[precision]
    written = {file.name: file.stat().st_size for file in (exported / precision).iterdir()}
    assert {*files, "switch.json"} == set(written)
    assert files["weights.bin"] == written["weights.bin"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_directory_has_the_parts_of_its_checkpoint(exported, precision):
    found = switch_export.inspect(exported / precision)
    assert numbers(found) == numbers(switch_export.inspect(exported / "checkpoint"))
    described = json.loads((exported / precision / "switch.json").read_text())
    assert sum(numbers(found).values()) == described["model"]["parameters"]
    assert found.problems == []


def test_a_model_directory_says_what_it_was_made_of_and_how(exported):
    found = switch_export.inspect(exported / "int4")
    assert (found.kind, found.task) == ("model directory", "seq2seq")
    assert found.origin["precision"] == "int4"
    assert found.origin["source"]["model"] == str(exported / "checkpoint")
    assert found.origin["verification"] is None
    assert found.model["sparse_encoder_layers"] == [0]
    assert found.tokenizer is None


@pytest.mark.parametrize(("values", "stored"), [("equal", 1), ("others", 2)])
def test_embeddings_are_counted_once_where_they_are_equal(small, values, stored):
    once = switch_export.inspect(small).exports["fp32"]["weights.bin"]
    state = read_state(small)
    other = state["shared.weight"].clone()
    if values == "others":
        other[3, 5] += 1
    write_state(small, state | {"decoder.embed_tokens.weight": other})
    found = switch_export.inspect(small)
    assert found.problems == []
    embedding = -(-other.numel() * 4 // PAGE) * PAGE
    assert found.exports["fp32"]["weights.bin"] == once + (stored - 1) * embedding


@pytest.mark.parametrize("form", ["bin", "shards", "shards of bin"])
def test_every_format_says_the_same(small, form):
    before = switch_export.inspect(small)
    if form == "bin":
        write_bin(small, read_state(small))
    else:
        extension = "bin" if form.endswith("bin") else "safetensors"
        write_shards(small, read_state(small), extension)
    assert switch_export.inspect(small) == before


def test_aliases_in_a_bin_file_are_counted_once(small):
    state = read_state(small)
    aliases = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    before = switch_export.inspect(small)
    write_bin(small, state | dict.fromkeys(aliases, state["shared.weight"]))
    after = switch_export.inspect(small)
    assert (after.parts, after.exports) == (before.parts, before.exports)


def test_a_head_of_its_own_is_a_part(tmp_path):
    path = save_small(tmp_path / "m", tie_word_embeddings=False)
    found = switch_export.inspect(path)
    assert found.parts["head"].parameters == SIZES["vocab_size"] * SIZES["d_model"]


def test_a_gated_checkpoint_is_described(small):
    before = switch_export.inspect(small)
    state = {}
    for name, tensor in read_state(small).items():
        halves = [name.replace(".wi.", f".wi_{half}.") for half in (0, 1)]
        state |= {half: tensor.clone() for half in halves}
    write_state(small, state)
    edit_config(small, dense_act_fn="gated-gelu")
    found = switch_export.inspect(small)
    assert (found.problems, found.repairs) == ([], [])
    assert (found.model["activation"], found.model["is_gated"]) == ("gelu_new", True)
    for part in ("experts", "dense MLPs"):
        assert found.parts[part].parameters == before.parts[part].parameters * 3 // 2
    assert "gelu_new, gated" in invoke(small).output


def test_int4_is_no_export_of_an_odd_number_of_inputs(tmp_path):
    found = switch_export.inspect(save_small(tmp_path / "m", d_ff=9))
    assert found.problems == []
    assert set(found.exports) == {"fp32", "fp16", "bf16", "int8"}


@pytest.mark.parametrize(("kind", "task"), [
    ("ForConditionalGeneration", "seq2seq"), ("Model", "hidden"), ("EncoderModel", "encoder"),
])
def test_the_task_is_what_the_checkpoint_is(tmp_path, kind, task):
    found = switch_export.inspect(save_small(tmp_path / "m", kind))
    assert (found.task, found.problems) == (task, [])
    assert ("decoder.onnx" in found.exports["fp32"]) == (task != "encoder")


def test_torch_is_not_loaded_for_safetensors():
    program = (
        "import sys, switch_export\n"
        f"found = switch_export.inspect({str(DEMO)!r})\n"
        "print(found.problems, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[] False\n"


def test_the_demo_model_is_described():
    found = switch_export.inspect(DEMO)
    assert found.architecture == "SwitchTransformersForConditionalGeneration"
    assert found.tokenizer == "spiece.model"
    assert found.exports["fp32"]["spiece.model"] == (DEMO / "spiece.model").stat().st_size
    assert found.capacity == {"tokens": 64}
    assert found.tokens == {"pad": 0, "eos": [1], "decoder_start": 0}


def test_every_problem_is_listed_and_inspecting_does_not_fail(small):
    edit_config(small, dense_act_fn="selu")
    (small / "generation_config.json").write_text('{"max_time": 2.0}')
    file = small / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    result = invoke(small)
    assert result.exit_code == 0
    assert "dense_act_fn is 'selu'" in result.output
    assert "model.safetensors cannot be read" in result.output
    assert "Nothing found" not in result.output


def test_tensors_and_generation_defaults_that_refuse_are_listed_together(small):
    state = read_state(small)
    del state["encoder.final_layer_norm.weight"]
    write_state(small, state | {"surplus": torch.zeros(3)})
    (small / "generation_config.json").write_text('{"max_time": 2.0, "num_beams": 2}')
    found = switch_export.inspect(small)
    assert [problem.split()[0] for problem in found.problems] == [
        "encoder.final_layer_norm.weight", "surplus", "max_time",
    ]
    assert found.exports == {}


def test_the_problems_are_those_of_the_refused_export(small):
    state = read_state(small)
    del state["encoder.final_layer_norm.weight"]
    write_state(small, state | {"surplus": torch.zeros(3), "shared.weight": torch.zeros(3, 4)})
    with pytest.raises(ExportError) as caught:
        switch_export.export(str(small), small / "out", verify=False)
    reasons = [line[4:] for line in str(caught.value).split("\n") if line.startswith("  - ")]
    assert len(reasons) == 3
    assert switch_export.inspect(small).problems == reasons


def test_shards_that_differ_from_their_index_are_listed(small):
    write_shards(small, read_state(small), "safetensors")
    (small / "model-00002-of-00003.safetensors").unlink()
    problems = switch_export.inspect(small).problems
    assert any("model-00002-of-00003.safetensors is missing" in entry for entry in problems)


def test_a_repair_is_offered_with_the_export_that_it_makes(tmp_path):
    path = save_small(tmp_path / "m", tie_word_embeddings=False)
    state = read_state(path)
    state["decoder.lm_head.weight"] = state.pop("lm_head.weight")
    write_state(path, state)
    edit_config(path, tie_word_embeddings=True, num_experts=9)
    found = switch_export.inspect(path)
    assert any("num_experts: 9 -> 2" in repair for repair in found.repairs)
    assert found.problems
    switch_export.export(str(path), tmp_path / "out", verify=False, repair=True)
    written = (tmp_path / "out" / "weights.bin").stat().st_size
    assert found.exports["fp32"]["weights.bin"] == written
    made = switch_export.inspect(tmp_path / "out")
    assert made.origin["source"]["repairs"] == found.repairs
    assert "num_experts: 9 -> 2" in invoke(tmp_path / "out").output


@pytest.mark.parametrize(("name", "message"), [
    ("google/switch-base-8", "hf download google/switch-base-8"),
    ("switch-base-8", "hf download google/switch-base-8"),
    ("/no/such/folder", "does not exist"),
    (str(DEMO / "config.json"), "is a file"),
    (str(ROOT / "docs"), "neither a checkpoint"),
])
def test_what_is_no_checkpoint_and_no_model_directory_fails(name, message):
    result = invoke(name)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize("damage", ["missing", "size", "format", "json"])
def test_a_damaged_model_directory_is_described_with_its_problem(exported, tmp_path, damage):
    change = (lambda found: found.update(format=99)) if damage == "format" else None
    path = copy_directory(exported / "fp32", tmp_path / "m", change)
    if damage == "missing":
        (path / "weights.bin").unlink()
    if damage == "size":
        (path / "weights.bin").write_bytes(b"123")
    if damage == "json":
        (path / "switch.json").write_text("{")
    said = {"missing": "weights.bin is missing", "size": "weights.bin has 3 bytes",
            "format": "format is 99", "json": "switch.json cannot be read"}[damage]
    result = invoke(path)
    assert result.exit_code == 0
    assert said in result.output
    assert "It cannot be loaded as it is" in result.output


@pytest.mark.parametrize("which", ["checkpoint", "int8"])
def test_json_says_what_the_library_says(exported, which):
    result = invoke(exported / which, "--json")
    found = switch_export.inspect(exported / which).to_dict()
    assert json.loads(result.output) == json.loads(json.dumps(found))
    assert found["path"] == str(exported / which)


def test_the_text_names_layers_parts_and_sizes(exported):
    lines = invoke(exported / "checkpoint").output.split("\n")
    table = dict(line.split(None, 1) for line in lines if len(line.split(None, 1)) == 2)
    assert table["kind"] == "checkpoint"
    assert table["encoder"] == "1 layer, sparse: 0"
    assert table["decoder"] == "2 layers, sparse: 1"
    assert table["d_ff"] == "40"
    assert "parameters" in table["experts"]
    assert table["bfloat16"].startswith(f"{len(read_state(exported / 'checkpoint'))} tensors")
