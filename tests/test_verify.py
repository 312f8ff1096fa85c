"""Verification refuses a directory whose graphs do not compute what the checkpoint does."""

import json

import pytest
from small_checkpoint import save_small

from switch_export import VerificationFailed, export, graph, storage

SIZES = {"d_model": 64, "d_ff": 96, "d_kv": 16, "vocab_size": 60, "num_experts": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = save_small(tmp_path_factory.mktemp("verify") / "model", **SIZES)
    from safetensors.torch import load_file, save_file

    state = load_file(path / "model.safetensors")
    for name, tensor in state.items():
        if "norm" not in name:
            tensor *= tensor.shape[-1] ** -0.5
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Tests of one precision differ in what is written, not in the graphs that are traced."""
    original, traced = graph.trace, {}

    def trace(plan):
        key = plan.config, plan.precision, plan.name
        if key not in traced:
            traced[key] = original(plan)
        return traced[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "trace", trace)
        yield


@pytest.fixture
def spoil(monkeypatch):
    """Change tensors on their way into weights.bin: spoil(which tensor, how)."""
    original = storage.WeightFile._tensors

    def install(wanted: str, change) -> None:
        def tensors(self, stored):
            for parts in original(self, stored):
                hit = any(wanted in name for name in stored.weights)
                yield change(*parts) if hit else parts

        monkeypatch.setattr(storage.WeightFile, "_tensors", tensors)

    return install


def refused(checkpoint, tmp_path, precision: str) -> str:
    """The text of the refusal; nothing was written."""
    with pytest.raises(VerificationFailed) as caught:
        export(str(checkpoint), tmp_path / "out", precision=precision)
    assert list(tmp_path.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize("name", ["tiny", "bf16", "fp16", "int8", "int4"])
def test_a_right_export_is_accepted_in_every_precision(cases, name):
    description = json.loads((cases[name].directory() / "switch.json").read_text())
    assert 0 < description["verification"]["error"] < 1e-4


@pytest.mark.parametrize(("precision", "name"), [
    ("int8", "encoder.block.0.layer.0.SelfAttention.q"),
    ("int8", "encoder.block.1.layer.1.mlp.experts.wi"),
    ("int8", "decoder.block.0.layer.1.EncDecAttention.v"),
    ("int4", "decoder.block.0.layer.2.mlp.wo"),
    ("int4", "shared.weight"),
])
def test_scales_in_another_order_are_refused(checkpoint, tmp_path, spoil, precision, name):
    spoil(name, lambda values, scale: (values, scale.roll(1, 0)))
    assert "relative error" in refused(checkpoint, tmp_path, precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_in_another_order_are_refused(checkpoint, tmp_path, spoil, precision):
    spoil("decoder.block.1.layer.0.SelfAttention.k", lambda *parts: tuple(
        part.flip(0) for part in parts
    ))
    assert "new_key.1" in refused(checkpoint, tmp_path, precision)


def test_a_spoiled_router_is_refused_for_its_routes(checkpoint, tmp_path, spoil):
    spoil("encoder.block.1.layer.1.mlp.router", lambda weight: (-weight,))
    assert "less probable than the best" in refused(checkpoint, tmp_path, "int8")
