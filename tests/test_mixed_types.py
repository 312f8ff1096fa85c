"""Checkpoints whose tensors have different types: each is widened by itself, none is narrowed."""

import torch
from checkpoints import load_oracle, random_rows
from safetensors.torch import load_file, save_file
from tolerances import assert_close

import switch_export
import switch_runtime


def type_of(name: str) -> torch.dtype:
    """bfloat16 with float32 routers, as released; float16 with float32 outputs; a float64 norm."""
    if name == "decoder.final_layer_norm.weight":
        return torch.float64
    if "router" in name or (name.startswith("decoder") and ".wo." in name):
        return torch.float32
    if name.endswith("expert_1.wi.weight"):  # experts of one layer need not agree
        return torch.float32
    return torch.float16 if name.startswith("decoder") else torch.bfloat16


def test_tensors_of_four_types_decode_as_transformers_does_in_float32(tiny_checkpoint, tmp_path):
    path = tmp_path / "mixed"
    path.mkdir()
    for name in ("config.json", "generation_config.json"):
        (path / name).write_text((tiny_checkpoint / name).read_text())
    state = load_file(tiny_checkpoint / "model.safetensors")
    state = {name: value.to(type_of(name)) for name, value in state.items()}
    assert len({value.dtype for value in state.values()}) == 4
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    switch_export.export(str(path), tmp_path / "out", verify=False)
    oracle = load_oracle(path)
    for name, parameter in oracle.named_parameters():
        assert torch.equal(parameter, state[name].float()), name  # what the oracle computes with
    source, target = random_rows(6, (17, 9))
    with torch.no_grad():
        expected = oracle(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, *target[:-1]]])
        ).logits[0].numpy()
    with switch_runtime.load(tmp_path / "out") as model:
        assert_close(model.forward(source, target), expected)
