"""generation_config.json: what is kept, dropped and refused, by the exporter and by the runtime."""

import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from checkpoints import load_oracle, pad, random_rows
from directories import copy_directory
from small_checkpoint import save_small
from test_parity_generate import cut
from transformers import GenerationConfig

import switch_export
import switch_runtime
from switch_export.checkpoint import open_checkpoint
from switch_export.config import SwitchConfig
from switch_export.errors import UnsupportedCheckpoint
from switch_export.generation import (
    DROPPED,
    FOREIGN,
    KEPT,
    NEUTRAL,
    defaults_for,
    read_generation,
)

FORMAT = Path(__file__).parent / "formats" / "1"
ROWS = random_rows(5, (13, 4, 9))
CONFIG = SwitchConfig.from_dict({"model_type": "switch_transformers", "vocab_size": 131})
FIELDS = [key for key in vars(GenerationConfig()) if not key.startswith("_")]
#: A legal value of every key that the runtime obeys.
LEGAL = {
    "max_new_tokens": 3, "max_length": 4, "min_new_tokens": 1, "min_length": 2, "num_beams": 2,
    "num_return_sequences": 2, "length_penalty": -1, "early_stopping": "never", "do_sample": False,
    "temperature": 0.5, "top_k": 0, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9,
    "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": [[5], [6, 7]], "forced_bos_token_id": 9, "forced_eos_token_id": [1, 9],
    "suppress_tokens": [3], "begin_suppress_tokens": 4,
}
WRONG = {
    "max_new_tokens": [0, 2.0, "3", True], "max_length": [1, -1, [20]],
    "min_new_tokens": [-1, 1.5], "min_length": [-1, "six"],
    "num_beams": [0, 1025, 1.0, "2"], "num_return_sequences": [0, 2.5],
    "length_penalty": ["long", True, 1e300, 2e9], "early_stopping": ["always", 1, 0.0],
    "do_sample": [1, "true"], "temperature": [0, 0.0, -1.0, "hot"], "top_k": [-1, 5.0],
    "top_p": [-0.1, 1.1, "p"], "min_p": [1.5, "p"], "typical_p": [0.0, 1.01],
    "repetition_penalty": [0, -1.0], "no_repeat_ngram_size": [-1, 2.0],
    "encoder_no_repeat_ngram_size": [-2], "bad_words_ids": [5, [5], [[]], [[131]], [[1.0]]],
    "forced_bos_token_id": [131, -1, [3]], "forced_eos_token_id": [131, [1, -1], "1"],
    "suppress_tokens": [[131], -1, [True]], "begin_suppress_tokens": [[0.5], {}],
}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """Generate with a directory that has these defaults."""
    folder = tmp_path_factory.mktemp("defaults") / "model"
    shutil.copytree(FORMAT, folder)
    description = json.loads((folder / "switch.json").read_text())

    def generate(defaults: dict):
        (folder / "switch.json").write_text(json.dumps(description | {"generation": defaults}))
        with switch_runtime.load(folder) as model:
            return model.generate([5, 6, 7, 1])

    return generate


def refusal(found: dict) -> str:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        read_generation(found, CONFIG, "the model")
    return str(caught.value)


def named_in(message: str) -> set[str]:
    return set(re.findall(r"^  - (?:generation\.)?(\w+)", message, re.MULTILINE))


def test_every_field_of_transformers_is_kept_dropped_or_refused_by_name():
    assert set(FIELDS) <= set(KEPT) | DROPPED | set(NEUTRAL) | FOREIGN
    assert set(LEGAL) == set(WRONG) == set(KEPT)


def test_no_key_is_in_two_lists():
    assert len(KEPT) + len(DROPPED) + len(NEUTRAL) + len(FOREIGN) == len(
        {*KEPT, *DROPPED, *NEUTRAL, *FOREIGN}
    )


@pytest.mark.parametrize("key", KEPT)
def test_the_runtime_obeys_what_is_kept(runtime, key):
    found = {key: LEGAL[key]}
    if key == "num_return_sequences":
        found["num_beams"] = 2
    kept = read_generation(found, CONFIG)
    assert kept == found
    assert runtime(kept)


def test_what_is_neither_kept_nor_neutral_is_refused_by_the_runtime_too(runtime):
    """Every other field of transformers at a value that no list has."""
    others = {key: 7 for key in FIELDS if key not in KEPT} | {"not_of_transformers": 7}
    refused = named_in(refusal(others))
    with pytest.raises(switch_runtime.InvalidArgument) as caught:
        runtime(others)
    assert named_in(str(caught.value)) == refused


def test_the_runtime_is_silent_about_what_is_dropped_and_neutral(runtime):
    silent = dict.fromkeys(DROPPED, 7) | {"_from_model_config": True}
    silent |= NEUTRAL
    assert read_generation(silent, CONFIG) == {}
    assert [r.token_ids for r in runtime(silent)] == [r.token_ids for r in runtime({})]


@pytest.mark.parametrize("turn", range(5))
def test_wrong_values_of_kept_keys_are_refused_by_both(runtime, turn):
    wrong = {key: values[turn] for key, values in WRONG.items() if turn < len(values)}
    assert named_in(refusal(wrong)) == set(wrong)
    # The runtime refuses what it cannot read at load, and the values before it generates.
    reported = set()
    rest = dict(wrong)
    while rest:
        with pytest.raises(switch_runtime.SwitchError) as caught:
            runtime(rest)
        found = {key for key in rest if re.search(rf"\b{key}\b", str(caught.value))}
        assert found, str(caught.value)
        reported |= found
        rest = {key: value for key, value in rest.items() if key not in found}
    assert reported == set(wrong)


@pytest.mark.parametrize(("key", "value"), [
    ("num_beam_groups", True), ("low_memory", 0), ("use_mtp", True), ("guidance_scale", 1.5),
    ("diversity_penalty", "0.0"),
])
def test_values_that_only_look_neutral_are_refused(key, value):
    assert f"{key} is {json.dumps(value)}, expected {json.dumps(NEUTRAL[key])}" in refusal(
        {key: value}
    )


def test_more_results_than_beams_are_refused_unless_they_are_drawn():
    assert "at most num_beams (2)" in refusal({"num_beams": 2, "num_return_sequences": 3})
    drawn = {"do_sample": True, "num_return_sequences": 3}
    assert read_generation(drawn, CONFIG) == drawn


def test_a_refusal_lists_every_key_and_says_what_to_do():
    message = refusal({"stop_strings": ["."], "num_beam_groups": 2, "temperature": 0, "top_k": 3})
    assert named_in(message) == {"stop_strings", "num_beam_groups", "temperature"}
    assert "Remove these keys" in message


def small(path: Path, **generation) -> Path:
    save_small(path, num_layers=1, num_decoder_layers=1)
    (path / "generation_config.json").write_text(json.dumps(generation))
    return path


def test_an_export_refuses_what_would_change_results(tmp_path):
    path = small(tmp_path / "m", max_time=3.0, sequence_bias=[[[5], 1.0]], num_beams=2)
    with pytest.raises(UnsupportedCheckpoint) as caught:
        switch_export.export(str(path), tmp_path / "out", verify=False)
    assert named_in(str(caught.value)) == {"max_time", "sequence_bias"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["encoder", "hidden"])
def test_a_task_that_generates_nothing_ignores_the_defaults(tmp_path, task):
    path = small(tmp_path / "m", max_time=3.0, num_beams="two")
    assert defaults_for(open_checkpoint(path, "the model"), task) == {}


def test_nulls_and_what_transformers_notes_for_itself_are_dropped(tmp_path):
    path = small(
        tmp_path / "m", num_beams=4, max_new_tokens=None, _from_model_config=False,
        transformers_version="5.23.0", use_cache=True, cache_implementation="static",
        output_attentions=False, compile_config={"mode": "default"},
    )
    assert open_checkpoint(path, "the model").generation == {"num_beams": 4}


DEFAULTS = {
    "beams": {
        "num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 2, "max_length": 12,
        "min_length": 6, "length_penalty": 0.5, "early_stopping": True,
        "forced_eos_token_id": 1, "suppress_tokens": [40, 41, 77], "num_beam_groups": 1,
        "diversity_penalty": 0.0, "use_cache": True,
    },
    "greedy": {
        "max_new_tokens": 11, "min_new_tokens": 4, "repetition_penalty": 1.7,
        "begin_suppress_tokens": [9, 28], "bad_words_ids": [[5], [6, 7]], "forced_bos_token_id": 23,
        "eos_token_id": [1, 12],
    },
}
OVERRIDES = {"beams": {"num_beams": 2}, "greedy": {"repetition_penalty": 1.0}}


@pytest.fixture(scope="module")
def beams_directory(tiny_checkpoint, tmp_path_factory) -> Path:
    """The checkpoint with the first file, exported: only switch.json depends on the file."""
    folder = tmp_path_factory.mktemp("beams")
    path = with_defaults(tiny_checkpoint, folder / "checkpoint", "beams")
    switch_export.export(str(path), folder / "model", verify=False)
    return folder / "model"


def with_defaults(checkpoint: Path, path: Path, name: str) -> Path:
    shutil.copytree(checkpoint, path)
    file = path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | DEFAULTS[name]))
    return path


@pytest.fixture(scope="module", params=DEFAULTS)
def defaults(request, tiny_checkpoint, beams_directory, tmp_path_factory):
    """A file of defaults: its name, the runtime's model, and what transformers makes of it."""
    folder = tmp_path_factory.mktemp(request.param)
    path = with_defaults(tiny_checkpoint, folder / "checkpoint", request.param)
    opened = open_checkpoint(path, "the model")

    def take(described: dict) -> None:
        if request.param != "beams":
            described["generation"] = defaults_for(opened, "seq2seq")
            described["tokens"]["eos"] = list(opened.config.eos_ids)

    directory = copy_directory(beams_directory, folder / "model", take)
    oracle = load_oracle(path)
    with switch_runtime.load(directory) as model:
        yield request.param, model, cache(lambda **options: generated(oracle, **options))


def generated(oracle, **options) -> list[list[int]]:
    """What transformers generates with its own reading of generation_config.json."""
    ids, mask = (torch.tensor(part) for part in pad(ROWS))
    ends = oracle.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    rows = oracle.generate(input_ids=ids, attention_mask=mask, **options).tolist()
    return [cut(row[1:], ends)[0] for row in rows]


def test_generate_without_arguments_gives_the_ids_of_transformers(defaults):
    _, model, wanted = defaults
    assert [result.token_ids for result in model.generate(ROWS)] == wanted()


def test_an_argument_wins_over_the_file_as_in_transformers(defaults):
    name, model, wanted = defaults
    override = OVERRIDES[name]
    found = [result.token_ids for result in model.generate(ROWS, **override)]
    assert found == wanted(**override)
    assert found != wanted()
