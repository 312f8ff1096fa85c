"""The command line: options, messages, exit codes, and that a killed export leaves nothing half."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from released_layout import REDUCED, make_released
from small_checkpoint import edit_config, read_state, save_small, write_state

from switch_export import cli
from switch_export.errors import ExportError
from switch_export.export import Options, Summary

RUN = [sys.executable, "-c", "from switch_export.cli import main; main()"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One block with experts in each stack."""
    return save_small(
        tmp_path_factory.mktemp("cli") / "small", num_layers=1, num_decoder_layers=1
    )


def invoke(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_help_is_quick():
    times = []
    for _ in range(5):
        began = time.perf_counter()
        done = subprocess.run([*RUN, "--help"], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - began)
    assert "--capacity [hf|none|legacy]" in done.stdout
    assert re.search(r"Commands:\n +inspect ", done.stdout)
    assert min(times) < 0.3


def test_help_loads_nothing_heavy():
    program = (
        "import sys, switch_export.cli\n"
        "print({'torch', 'onnx', 'onnxruntime', 'numpy', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_version_is_the_packages():
    version = (Path(__file__).parent.parent / "VERSION").read_text().strip()
    result = invoke("--version")
    assert (result.exit_code, result.output) == (0, f"switch-export, version {version}\n")


@pytest.mark.parametrize("arguments", [
    (), ("--model", "m", "--precision", "fp7"), ("--model", "m", "--task", "poetry"),
    ("--model", "m", "--capacity", "some"), ("--model", "m", "--target", "abacus"), ("--nonsense",),
    ("inspect",), ("inspect", "a", "b"), ("--model", "m", "inspect", "a"), ("--force",),
    ("export",),
], ids=str)
def test_wrong_usage_has_exit_code_2(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.output


def test_an_export_prints_a_table_and_ends_with_the_path(small, tmp_path):
    result = invoke(
        "--model", small, "--output", tmp_path / "out", "--task", "encoder", "--target", "onnx",
        "--capacity", "none",
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.strip().split("\n")
    assert lines[-1] == str(tmp_path / "out")
    table = dict(line.split(None, 1) for line in lines[:-1])
    assert set(table) >= {"graph", "parameters", "encoder.onnx", "weights.bin", "seconds"}
    described = json.loads((tmp_path / "out" / "switch.json").read_text())
    assert (described["task"], described["target"]) == ("encoder", "onnx")
    assert described["capacity"]["policy"] == "none"
    assert described["source"] == {
        "model": str(small), "revision": None, "adapter": None, "repairs": [],
    }
    assert table["parameters"] == f"{described['model']['parameters']:,}"
    assert described["verification"]["error"] < 1e-4
    for stage in ("trace", "write", "verify"):
        assert f"{stage} ...\n" in result.stderr


def test_the_layout_of_google_switch_base_8_exports(tmp_path):
    path = make_released(tmp_path / "released", **REDUCED)
    result = invoke("--model", path, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    described = json.loads((tmp_path / "out" / "switch.json").read_text())
    assert described["model"]["sparse_decoder_layers"] == [1, 3, 5, 7, 9, 11]
    state = torch.load(path / "pytorch_model.bin", weights_only=True)
    embedding = state["shared.weight"].numel()
    counted = sum(tensor.numel() for tensor in state.values()) - 3 * embedding
    assert described["model"]["parameters"] == counted
    assert described["verification"]["error"] < 1e-4


def test_the_default_output_is_named_after_the_model(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("--model", f"{small}/", "--task", "encoder", "--no-verify")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("small-onnx\n")
    described = json.loads((tmp_path / "small-onnx" / "switch.json").read_text())
    assert described["verification"] is None


def test_options_reach_the_export(monkeypatch):
    seen = {}

    def record(model, output, **choices):
        del choices["progress"]
        seen.update(choices, model=model, output=output)
        raise ExportError("enough")

    monkeypatch.setattr(cli, "export", record)
    invoke("--model", "a/b", "--output", "o", "--target", "onnx", "--precision", "int8",
           "--block", "64", "--capacity", "legacy", "--task", "hidden", "--revision", "r",
           "--adapter", "d", "--repair", "--no-verify", "--force")
    assert seen == {
        "model": "a/b", "output": Path("o"), "target": "onnx", "precision": "int8",
        "block": 64, "capacity": "legacy", "task": "hidden", "revision": "r", "verify": False,
        "force": True, "adapter": "d", "repair": True,
    }


def test_what_is_not_given_is_the_default_of_the_library(monkeypatch):
    seen = {}

    def record(_model, _output, **choices):
        del choices["progress"]
        seen.update(choices)
        raise ExportError("enough")

    monkeypatch.setattr(cli, "export", record)
    invoke("--model", "m")
    assert Options(**seen) == Options()
    assert Options().task is None


def test_a_folder_named_inspect_can_be_exported(monkeypatch):
    def record(model, _output, **_choices):
        raise ExportError(f"this would export {model}")

    monkeypatch.setattr(cli, "export", record)
    assert "this would export inspect" in invoke("--model", "inspect").output


def test_the_table_lists_every_repair_and_the_adapter():
    repairs = ["num_experts: 9 -> 2", "num_layers: 3 -> 4"]
    summary = Summary(Path("out"), repairs=repairs, adapter="my-adapter")
    lines = [line.split(None, 1) for line in cli._table(summary).split("\n")]
    assert ["repair", "num_experts: 9 -> 2"] in lines
    assert ["repair", "num_layers: 3 -> 4"] in lines
    assert ["adapter", "my-adapter"] in lines


def refused(path, tmp_path, *reasons):
    """The export fails with exit code 1, all reasons, no traceback and nothing written."""
    output = tmp_path / "refused" / "out"
    output.parent.mkdir(exist_ok=True)
    result = invoke("--model", path, "--output", output, "--no-verify")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    for reason in reasons:
        assert reason in result.output
    assert list(output.parent.iterdir()) == []


def test_a_model_that_is_not_switch_is_refused(tmp_path):
    path = edit_config(save_small(tmp_path / "m"), model_type="t5", dense_act_fn="gated-selu")
    refused(path, tmp_path, "model_type is 't5'", "dense_act_fn is 'gated-selu'")


def test_missing_and_misshapen_tensors_are_refused(tmp_path):
    path = save_small(tmp_path / "m")
    state = read_state(path)
    del state["encoder.final_layer_norm.weight"]
    state["shared.weight"] = state["shared.weight"][:39].clone()
    write_state(path, state)
    refused(path, tmp_path, "encoder.final_layer_norm.weight is missing", "[39, 16]")


def test_a_truncated_file_is_refused(tmp_path):
    path = save_small(tmp_path / "m")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(path, tmp_path, "model.safetensors cannot be read")


def test_weights_that_are_not_finite_are_refused_and_nothing_is_left(tmp_path):
    path = save_small(tmp_path / "m", num_layers=1, num_decoder_layers=1)
    state = read_state(path)
    state["encoder.final_layer_norm.weight"][3] = float("nan")
    write_state(path, state)
    refused(path, tmp_path, "encoder.final_layer_norm.weight", "1 NaN")


def test_a_full_disk_is_refused_and_nothing_is_left(small, tmp_path):
    program = (
        "import resource\n"
        "from switch_export.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, 1 << 13))\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--model", small, "--output", tmp_path / "out",
         "--task", "encoder"],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 1
    assert "Error: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_refused(tmp_path):
    refused("switch-base-9", tmp_path, "not a directory, a known name or a hub id")


def test_an_existing_output_is_refused_before_the_checkpoint_is_read(tmp_path):
    (tmp_path / "out").mkdir()
    result = invoke("--model", tmp_path / "nothing", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "exists; pass --force" in result.output


def test_an_error_of_the_system_is_a_message(monkeypatch):
    def fail(*_arguments, **_choices):
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(cli, "export", fail)
    result = invoke("--model", "m")
    assert result.exit_code == 1
    assert result.output.startswith("Error: [Errno 13] Permission denied: '/somewhere'")


def test_ctrl_c_leaves_nothing_behind(small, tmp_path):
    program = (
        "import signal, sys\n"
        "from switch_export import cli\n"
        "whole = cli.export\n"
        "def interrupted(model, output, progress, **choices):\n"
        "    def ring(stage, done, total):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return whole(model, output, progress=ring, **choices)\n"
        "cli.export = interrupted\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--model", small, "--output", tmp_path / "out"],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 1
    assert "Aborted!" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_export_killed_at_any_moment_leaves_the_old_or_the_new_directory(small, tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "kill_trials.py", "export", tmp_path / "out",
         small],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["absent"] + counts["old"] >= 20, counts
