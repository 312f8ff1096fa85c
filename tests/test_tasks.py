"""What a checkpoint is exported as: transformers' three classes, saved by themselves."""

import json

import pytest
import torch
import transformers
from checkpoints import pad, random_rows
from small_checkpoint import KINDS, edit_config, read_state, save_small, write_state
from tolerances import assert_close

import switch_export
import switch_runtime
from switch_export.checkpoint import choose_task, default_task, open_checkpoint
from switch_export.errors import ExportError, UnsupportedCheckpoint
from switch_export.export import Options

TASKS = {"ForConditionalGeneration": "seq2seq", "Model": "hidden", "EncoderModel": "encoder"}


def resave(checkpoint, path, kind: str):
    """The checkpoint as another class of transformers loads and saves it; gives the model."""
    model = getattr(transformers, f"SwitchTransformers{kind}").from_pretrained(
        checkpoint, dtype=torch.float32
    ).eval()
    model.save_pretrained(path)
    return model


def default_of(path) -> str:
    checkpoint = open_checkpoint(path, "the model")
    return default_task(checkpoint, checkpoint.tensors)


def choice(path, task: str | None) -> str:
    return choose_task(open_checkpoint(path, "the model"), task)


def refusal(path, task: str | None) -> str:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        choice(path, task)
    return str(caught.value)


def test_an_encoder_model_exports_as_itself(tiny_checkpoint, tmp_path, sources):
    model = resave(tiny_checkpoint, tmp_path / "encoder", "EncoderModel")
    switch_export.export(str(tmp_path / "encoder"), tmp_path / "out", verify=False)
    assert json.loads((tmp_path / "out" / "switch.json").read_text())["task"] == "encoder"
    ids, mask = (torch.tensor(part) for part in pad(sources))
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    with switch_runtime.load(tmp_path / "out") as exported:
        for states, row, tokens in zip(exported.encode(sources), expected, sources, strict=True):
            assert_close(states, row[: len(tokens)])


def test_a_model_without_head_exports_as_hidden_states_of_its_decoder(tiny_checkpoint, tmp_path):
    model = resave(tiny_checkpoint, tmp_path / "hidden", "Model")
    switch_export.export(str(tmp_path / "hidden"), tmp_path / "out", verify=False)
    assert json.loads((tmp_path / "out" / "switch.json").read_text())["task"] == "hidden"
    source, target = random_rows(8, (15, 11))
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, *target[:-1]]])
        ).last_hidden_state[0].numpy()
    with switch_runtime.load(tmp_path / "out") as exported:
        assert_close(exported.forward(source, target), expected)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_default_is_the_class_that_saved_the_checkpoint(tmp_path, kind, tied):
    path = save_small(tmp_path / "model", kind, tie_word_embeddings=tied)
    assert default_of(path) == TASKS[kind]
    assert choice(path, None) == TASKS[kind]


@pytest.mark.parametrize(("kind", "task"), [
    ("ForConditionalGeneration", "seq2seq"), ("Model", "seq2seq"), ("EncoderModel", "encoder"),
])
@pytest.mark.parametrize("architectures", [None, [], ["SomethingElse"], "a string"])
def test_without_a_known_class_the_tensors_say_whether_there_is_a_decoder(
    tmp_path, kind, task, architectures
):
    path = edit_config(save_small(tmp_path / "model", kind), architectures=architectures)
    assert default_of(path) == task


def test_a_class_wins_over_tensors_that_it_does_not_need(tmp_path):
    path = edit_config(
        save_small(tmp_path / "model"), architectures=["SwitchTransformersEncoderModel"]
    )
    assert default_of(path) == "encoder"


def test_a_model_without_decoder_layers_is_an_encoder(tmp_path):
    path = save_small(tmp_path / "model", num_decoder_layers=0, num_sparse_decoder_layers=0)
    assert choice(path, None) == "encoder"
    assert refusal(path, "seq2seq").endswith("export it with --task encoder")


@pytest.mark.parametrize("task", ["seq2seq", "hidden", "encoder"])
def test_a_tied_model_serves_every_task_it_has_tensors_for(tmp_path, task):
    assert choice(save_small(tmp_path / "whole"), task) == task
    assert choice(save_small(tmp_path / "headless", "Model"), task) == task


@pytest.mark.parametrize("task", ["seq2seq", "hidden"])
def test_an_encoder_asked_for_a_decoder_says_what_is_there_and_what_to_do(tmp_path, task):
    message = refusal(save_small(tmp_path / "model", "EncoderModel"), task)
    assert message.startswith("the model has no decoder (config.json calls it SwitchTransformersEn")
    assert f"task {task} needs" in message
    assert message.endswith("export it with --task encoder")


def test_a_class_whose_decoder_is_missing_is_refused_and_not_taken_for_an_encoder(tmp_path):
    path = save_small(tmp_path / "model")
    state = read_state(path)
    write_state(path, {name: state[name] for name in state if not name.startswith("decoder")})
    assert "ForConditionalGeneration): none of its" in refusal(path, None)


def test_an_untied_model_without_head_asked_for_logits_names_its_task(tmp_path):
    path = save_small(tmp_path / "model", "Model", tie_word_embeddings=False)
    message = refusal(path, "seq2seq")
    assert "has no head (config.json calls it SwitchTransformersModel)" in message
    assert message.endswith("export it with --task hidden")


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ExportError, match="task is 'poetry', expected one of seq2seq, encoder, hi"):
        Options(task="poetry")
