"""The lazy readers: damaged files, indices and pickles are refused; nothing stays in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_checkpoint import read_state, save_small, write_bin, write_shards

from switch_export.checkpoint import open_checkpoint
from switch_export.errors import UnsupportedCheckpoint
from switch_export.weights import open_weights


@pytest.fixture
def small(tmp_path):
    return save_small(tmp_path / "small")


def table(path):
    return open_weights(open_checkpoint(path, "the model"), "seq2seq")


def refusal(path) -> str:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        table(path)
    return str(caught.value)


@pytest.mark.parametrize("extension", ["safetensors", "bin"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "overwritten"])
def test_a_damaged_file_is_named_with_its_size(small, extension, damage):
    if extension == "bin":
        write_bin(small, read_state(small))
    file = next(small.glob(f"*.{extension}"))
    data = file.read_bytes()
    data = {"truncated": data[:-100], "empty": b"", "overwritten": b"\xff" * 64}[damage]
    file.write_bytes(data)
    assert f"{file.name} cannot be read ({len(data)} bytes" in refusal(small)


@pytest.mark.parametrize("extension", ["safetensors", "bin"])
def test_every_damaged_shard_is_named_at_once(small, extension):
    write_shards(small, read_state(small), extension)
    first, second, third = sorted(small.glob(f"*-of-*.{extension}"))
    first.unlink()
    second.write_bytes(b"")
    state = {"an.unlisted.tensor": torch.ones(2)}
    save_file(state, third) if extension == "safetensors" else torch.save(state, third)
    message = refusal(small)
    assert f"{first.name} is missing" in message
    assert f"{second.name} cannot be read (0 bytes" in message
    assert f"{third.name} holds an.unlisted.tensor, not placed there" in message


def test_an_index_that_disagrees_with_its_shard_is_refused(small):
    state = read_state(small)
    write_shards(small, state, "safetensors")
    shard = sorted(small.glob("*-of-*.safetensors"))[0]
    names = sorted(state)[0::3]
    save_file({name: state[name] for name in names[1:]}, shard)
    assert f"{shard.name} does not hold {names[0]}, placed there by" in refusal(small)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": {"a": 1}}', '{"weight_map": {}}'])
def test_a_damaged_index_is_refused(small, content):
    write_shards(small, read_state(small), "safetensors")
    (small / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(small)


def test_an_index_may_not_lead_out_of_the_directory(small):
    write_shards(small, read_state(small), "safetensors")
    index = small / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../other/model.safetensors"}}')
    assert "expected a file beside it" in refusal(small)


class Trap:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize("content", [
    {"shared.weight": Trap()}, Trap(), [torch.ones(2)], {"step": 3},
    {"a": torch.eye(2).to_sparse()},
], ids=["object in dict", "object", "list", "number", "sparse"])
def test_pickles_of_anything_but_tensors_are_refused_and_not_run(small, content, capsys):
    message = refusal(write_bin(small, content))
    assert "pytorch_model.bin" in message
    assert "ran" not in capsys.readouterr().out


def test_safetensors_win_over_a_bin_file(small):
    torch.save({}, small / "pytorch_model.bin")
    files = {part.file for weight in table(small).weights.values() for part in weight.parts}
    assert files == {"model.safetensors"}


def anonymous_memory() -> int:
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))


@pytest.mark.parametrize("extension", ["safetensors", "bin"])
def test_reading_keeps_no_weights_in_memory(tmp_path, extension):
    path = save_small(tmp_path / "wide", num_experts=24, d_model=128, d_ff=1024)
    if extension == "bin":
        write_bin(path, read_state(path))
    size = sum(file.stat().st_size for file in path.glob(f"*.{extension}"))
    assert size > 50 << 20
    total = 0.0
    before = anonymous_memory()
    for weight in table(path).weights.values():
        for i in range(len(weight.parts)):
            total += float(weight.load_part(i).sum())
    assert anonymous_memory() - before < 12 << 20
    assert np.isfinite(total)
