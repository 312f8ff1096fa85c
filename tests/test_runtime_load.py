"""switch_runtime.load: damaged, altered, newer and wrong directories, wrong options."""

import subprocess
import sys

import pytest
from directories import copy_directory, with_tokenizer

import switch_runtime
from switch_runtime import InvalidArgument, InvalidModel

FILES = ("encoder.onnx", "decoder.onnx", "weights.bin")


@pytest.fixture(scope="module")
def text_directory(tiny_directory, tmp_path_factory):
    return with_tokenizer(tiny_directory, tmp_path_factory.mktemp("text") / "model")


def test_verify_accepts_what_was_exported(tiny_directory, text_directory):
    for directory in (tiny_directory, text_directory):
        switch_runtime.load(directory, verify=True).close()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tiny_directory, tmp_path, name):
    directory = copy_directory(tiny_directory, tmp_path / "model")
    (directory / name).unlink()
    with pytest.raises(InvalidModel, match=name):
        switch_runtime.load(directory)
    with pytest.raises(InvalidModel, match=name):
        switch_runtime.load(directory, verify=True)


@pytest.mark.parametrize("name", [*FILES, "spiece.model"])
def test_a_truncated_file_is_named(text_directory, tmp_path, name):
    directory = copy_directory(text_directory, tmp_path / "model")
    (directory / name).write_bytes((directory / name).read_bytes()[:-1])
    with pytest.raises(InvalidModel, match=name):
        switch_runtime.load(directory)


def test_altered_files_are_named_by_verify(text_directory, tmp_path):
    directory = copy_directory(text_directory, tmp_path / "model")
    for name in ("weights.bin", "spiece.model"):
        blob = bytearray((directory / name).read_bytes())
        blob[len(blob) // 2] ^= 1
        (directory / name).write_bytes(blob)
    with pytest.raises(InvalidModel, match="(?s)altered.*weights.bin.*spiece.model"):
        switch_runtime.load(directory, verify=True)


def test_a_newer_format_is_refused(tiny_directory, tmp_path):
    directory = copy_directory(
        tiny_directory, tmp_path / "model", lambda description: description.update(format=2)
    )
    with pytest.raises(InvalidModel, match="format"):
        switch_runtime.load(directory)


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("kind", ["nothing", "empty directory", "file", "no JSON", "a list"])
def test_what_is_no_model_directory_is_refused_by_name(tmp_path, kind, verify):
    path = tmp_path / "not-a-model"
    if kind == "file":
        path.write_text("text")
    elif kind != "nothing":
        path.mkdir()
        if kind != "empty directory":
            (path / "switch.json").write_text("{" if kind == "no JSON" else "[]")
    with pytest.raises(InvalidModel, match="not-a-model"):
        switch_runtime.load(path, verify=verify)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "abacus"}, "abacus"),
        ({"device": 3}, "device is 3"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"threads": True}, "threads is True"),
    ],
)
def test_bad_load_options_are_named(tiny_directory, options, message):
    with pytest.raises(InvalidArgument, match=message):
        switch_runtime.load(tiny_directory, **options)


def test_a_missing_onnxruntime_is_a_missing_library(tiny_directory):
    code = f"import switch_runtime; switch_runtime.load({str(tiny_directory)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path), "SWITCH_ORT_LIBRARY": "/no/libonnxruntime.so"},
    )  # fmt: skip
    assert "MissingLibrary" in done.stderr
    assert "/no/libonnxruntime.so" in done.stderr
