"""Finding a checkpoint on disk and reading its configuration; the hub is in test_hub.py."""

import json

import pytest
from small_checkpoint import edit_config, save_small

from switch_export.checkpoint import open_checkpoint, resolve
from switch_export.errors import ExportError, UnsupportedCheckpoint


@pytest.fixture
def small(tmp_path):
    return save_small(tmp_path / "small")


def refusal(path) -> str:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        open_checkpoint(path, "the model")
    return str(caught.value)


def test_a_directory_is_taken_as_it_is(small):
    assert resolve(str(small)) == small
    checkpoint = open_checkpoint(small, "the model")
    assert (checkpoint.name, checkpoint.revision) == ("the model", None)
    assert checkpoint.config.d_model == 16


def test_a_revision_of_a_directory_is_refused(small):
    with pytest.raises(ExportError, match="revision 'main' is for a model of the hub"):
        resolve(str(small), "main")


@pytest.mark.parametrize("model", ["no-such-model", "a/b/c", "/no/such/folder", "./missing"])
def test_what_is_neither_directory_nor_name_nor_hub_id_is_refused(model):
    with pytest.raises(ExportError, match="not a directory, a known name or a hub id") as caught:
        resolve(model)
    assert "switch-base-8" in str(caught.value)


def test_a_file_is_refused(small):
    with pytest.raises(ExportError, match="is a file; pass the directory"):
        resolve(str(small / "config.json"))


def test_a_directory_without_config_is_refused(tmp_path):
    assert "no config.json" in refusal(tmp_path)


def test_an_adapter_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    message = refusal(tmp_path)
    assert "--adapter" in message
    assert "merge_and_unload" in message


def test_damaged_config_and_missing_weights_come_at_once(small):
    (small / "config.json").write_text('{"model_type": ')
    (small / "generation_config.json").write_text("[]")
    (small / "model.safetensors").unlink()
    message = refusal(small)
    assert "config.json cannot be read" in message
    assert "generation_config.json is not a JSON object" in message
    assert "no weights in" in message


def test_generation_defaults_keep_what_is_set_and_leave_ids_to_the_configuration(small):
    (small / "generation_config.json").write_text(json.dumps({
        "num_beams": 4, "length_penalty": 2.0, "max_new_tokens": None, "_from_model_config": False,
        "transformers_version": "5.23.0", "decoder_start_token_id": 3, "eos_token_id": [1, 5],
        "use_cache": True, "output_attentions": False,
    }))
    checkpoint = open_checkpoint(small, "the model")
    assert checkpoint.generation == {"num_beams": 4, "length_penalty": 2.0}
    assert checkpoint.config.decoder_start_id == 3
    assert checkpoint.config.eos_ids == (1, 5)
    assert checkpoint.config.pad_id == 0


def test_configuration_errors_name_the_checkpoint(small):
    edit_config(small, model_type="t5", d_ff=-1)
    message = refusal(small)
    assert message.startswith("the model cannot be exported:")
    assert message.count("\n  - ") == 2
