"""How weights are stored: bounds, packing and types, against docs/operators.md."""

import json

import numpy as np
import operator_reference
import pytest
import torch
from graphs import Graphs
from operator_reference import Weight
from small_checkpoint import read_state, save_small, write_state

from switch_export import export
from switch_export.errors import ExportError
from switch_export.quantize import Precision, find_precision

#: Half a step of a scale that is amax / 127, and room for float32.
HALF_STEP = 0.5 / 127 * (1 + 1e-4)


def random_weight(outputs: int = 9, inputs: int = 70, seed: int = 0) -> torch.Tensor:
    """[O, I] with rows of different sizes, one of them of zeros."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    weight *= torch.logspace(-3, 2, outputs)[:, None]
    weight[4] = 0
    return weight


def stored(precision: Precision, weight: torch.Tensor) -> Weight:
    """The encoding as the independent reference decodes it."""
    values, scale = precision.encode(weight, "w")
    values = values.view(torch.int16).numpy().view(np.uint16) if precision.name == "bf16" else (
        values.numpy()
    )
    return Weight(precision.name, precision.block, values, None if scale is None else scale.numpy())


@pytest.mark.parametrize("block", [0, 32, 64, 128])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_what_is_decoded_is_what_the_document_says(name, block):
    precision, weight = Precision(name, block), random_weight()
    encoded = precision.encode(weight, "w")
    assert tuple(encoded[0].shape) == precision.values_shape(tuple(weight.shape))
    assert tuple(encoded[1].shape) == precision.scale_shape(tuple(weight.shape))
    assert encoded[1].dtype == torch.float32
    expected = operator_reference.decode(stored(precision, weight))
    assert np.allclose(precision.decode(*encoded).numpy(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("block", [0, 32, 64])
def test_int8_is_within_half_a_step_of_every_weight(block):
    weight = random_weight()
    decoded = operator_reference.decode(stored(Precision("int8", block), weight))
    width = block or weight.shape[1]
    for start in range(0, weight.shape[1], width):
        part = weight[:, start : start + width].numpy()
        error = np.abs(decoded[:, start : start + width] - part).max(1)
        assert (error <= np.abs(part).max(1) * HALF_STEP).all()


def test_int4_is_no_worse_than_seven_steps_to_the_largest_magnitude():
    weight = random_weight(64, 96, seed=3)
    weight[4] = weight[5]
    decoded = torch.tensor(operator_reference.decode(stored(Precision("int4", 32), weight)))
    blocks = weight.double().reshape(64, 3, 32)
    scale = blocks.abs().amax(-1, keepdim=True) / 7
    plain = ((blocks / scale).round() * scale - blocks).square().sum(-1)
    found = (decoded.reshape(64, 3, 32) - blocks).square().sum(-1)
    assert (found <= plain * (1 + 1e-4)).all()
    assert found.sum() < 0.95 * plain.sum()


def test_int4_uses_the_code_that_only_one_sign_has():
    weight = torch.tensor([[-8.0, *range(-7, 8)] * 2, [8.0, *range(-7, 8)] * 2])
    values, scale = Precision("int4", 32).encode(weight, "w")
    assert scale.tolist() == [[1.0], [-1.0]]
    assert torch.equal(Precision("int4", 32).decode(values, scale), weight)


def test_int4_has_the_low_four_bits_first():
    weight = torch.zeros(1, 32)
    weight[0, 0], weight[0, 1] = 7.0, -3.0
    values, scale = Precision("int4", 32).encode(weight, "w")
    assert values.dtype == torch.uint8
    low, high = (int(values[0, 0]) & 15) - 8, (int(values[0, 0]) >> 4) - 8
    assert low * float(scale[0, 0]) == pytest.approx(7, rel=0.1)
    assert high * float(scale[0, 0]) == pytest.approx(-3, rel=0.1)
    assert (values[0, 1:] == 0x88).all()


def test_zeros_stay_zeros_in_every_precision():
    for name, block in operator_reference.PRECISIONS:
        precision = Precision(name, block)
        assert (precision.round_trip(torch.zeros(3, 40), "w") == 0).all()


@pytest.mark.parametrize(("name", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_a_checkpoint_in_half_precision_is_stored_bit_by_bit(name, dtype):
    original = random_weight().to(getattr(torch, dtype))
    values, scale = Precision(name).encode(original.float(), "w")
    assert scale is None
    assert torch.equal(values.view(torch.int16), original.view(torch.int16))
    assert torch.equal(Precision(name).decode(values, None), original.float())


def test_a_weight_beyond_float16_is_refused_by_name():
    with pytest.raises(ExportError) as caught:
        Precision("fp16").encode(torch.tensor([[1.0, -70000.0]]), "decoder.x.weight")
    for part in ("decoder.x.weight", "70000", "65504", "bf16"):
        assert part in str(caught.value)


def test_int4_of_an_odd_number_of_inputs_is_refused_by_name():
    with pytest.raises(ExportError) as caught:
        Precision("int4", 32).encode(torch.ones(2, 7), "decoder.x.weight")
    for part in ("decoder.x.weight", "7 inputs", "even", "int8"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("name", "block", "reason"), [
    ("fp32", 32, "leave it out"), ("bf16", 0, "leave it out"), ("int8", 33, "power of two"),
    ("int4", -32, "power of two"), ("int8", 96, "power of two"),
])
def test_a_wrong_block_is_refused(name, block, reason):
    with pytest.raises(ExportError, match=reason):
        find_precision(name, block)


def test_the_default_block_is_that_of_the_precision():
    defaults = {name: find_precision(name, None).block for name in ("fp32", "bf16", "int8", "int4")}
    assert defaults == {"fp32": 0, "bf16": 0, "int8": 0, "int4": 32}
    assert find_precision("int4", 64) == Precision("int4", 64)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("quantize") / "small")


def test_an_overflow_fails_the_export_and_leaves_nothing(small, tmp_path):
    state = read_state(small)
    name = "decoder.block.0.layer.0.SelfAttention.k.weight"
    state[name][0, 0] = 1e6
    path = save_small(tmp_path / "large")
    write_state(path, state)
    (tmp_path / "to").mkdir()
    with pytest.raises(ExportError, match=name):
        export(str(path), tmp_path / "to" / "out", precision="fp16", verify=False)
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize(("name", "size"), [("bf16", 2), ("int8", 1), ("int4", 0.5)])
def test_weights_are_stored_once_and_in_their_precision(cases, name, size):
    """All but norms, routers, biases and scales, which are below a page each."""
    directory = cases[name].directory()
    description = json.loads((directory / "switch.json").read_text())
    assert description["precision"] == name
    stored_bytes = sum(
        int(entry.value)
        for kind in ("encoder", "decoder")
        for tensor in initializers(directory / f"{kind}.onnx")
        for entry in tensor.external_data if entry.key == "length"
        and tensor.name.endswith((".wi", ".wo", ".weight"))
        and "norm" not in tensor.name and "router" not in tensor.name
        and not tensor.name.startswith(("position", "head"))
        and (kind, tensor.name) != ("decoder", "embedding.weight")
    )
    oracle = cases[name].oracle
    exact = sum(
        parameter.numel() for key, parameter in oracle.named_parameters()
        if "norm" in key or "router" in key or "relative" in key
    )
    assert stored_bytes == size * (sum(p.numel() for p in oracle.parameters()) - exact)


def initializers(path):
    import onnx

    return onnx.load(path, load_external_data=False).graph.initializer


@pytest.mark.parametrize("name", ["bf16", "fp16", "int8", "int4"])
def test_a_verified_export_says_what_each_block_lost(cases, name):
    description = json.loads((cases[name].directory() / "switch.json").read_text())
    lost = description["verification"]["quantisation"]
    assert list(lost) == [f"{stack}.{i}" for stack in ("encoder", "decoder") for i in range(2)]
    most = {"bf16": 0.3, "fp16": 0.05, "int8": 0.5, "int4": 1.5}[name]
    assert all(0 < value < most for value in lost.values()), lost


def test_an_export_in_fp32_lost_nothing(tiny_directory):
    description = json.loads((tiny_directory / "switch.json").read_text())
    assert description["block"] == 0
    assert description["verification"]["quantisation"] is None


@pytest.mark.parametrize(("name", "limit"), [("bf16", 0.05), ("fp16", 0.01), ("int8", 0.1)])
def test_logits_stay_near_those_of_the_checkpoint(cases, name, limit):
    """Teacher-forced, one token: nothing is dropped or routed by a hair's breadth."""
    case = cases[name]
    source = {"ids": np.array([[5, 9, 1]]), "mask": np.ones((1, 3), np.int64)}
    graphs = Graphs(case.directory())
    encoded = graphs.encode(source["ids"], source["mask"]) | {"attention_mask": source["mask"]}
    found = graphs.decode(np.array([[0]]), graphs.cache(1, 1), encoded)["logits"]
    with torch.no_grad():
        expected = case.oracle(
            input_ids=torch.tensor(source["ids"]), decoder_input_ids=torch.tensor([[0]])
        ).logits.numpy()
    assert np.linalg.norm(found - expected) <= limit * np.linalg.norm(expected)
