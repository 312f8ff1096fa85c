"""Models of the hub: the real client against a local server, nothing patched."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_server import HubServer, Repository
from small_checkpoint import (
    edit_config,
    read_state,
    save_small,
    write_bin,
    write_shards,
    write_state,
)

PROGRAM = """
import json, sys
from switch_export.checkpoint import find_checkpoint
from switch_export.errors import ExportError
from switch_export.weights import open_weights
model, revision = sys.argv[1], sys.argv[2] or None
try:
    checkpoint = find_checkpoint(model, revision)
    weights = open_weights(checkpoint, "seq2seq").weights
    print(json.dumps({
        "files": sorted(path.name for path in checkpoint.path.iterdir()),
        "revision": checkpoint.revision, "name": checkpoint.name, "weights": len(weights),
        "capacity": checkpoint.config.expert_capacity,
        "repairs": checkpoint.repairs,
    }))
except ExportError as error:
    print(json.dumps({"error": str(error)}))
"""
#: A port of this machine that nothing listens on.
NOWHERE = "http://127.0.0.1:9"


@dataclass
class Hub:
    """The server, a client's cache and a checkpoint to serve."""

    server: HubServer
    home: Path
    checkpoint: Path

    def get(self, model: str, revision: str = "", endpoint: str | None = None) -> dict:
        """What a fresh process makes of `model`."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        environment |= {
            "HF_ENDPOINT": endpoint or self.server.endpoint, "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, model, revision], env=environment,
            capture_output=True, text=True, check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def hub(tmp_path):
    checkpoint = save_small(tmp_path / "served")
    (checkpoint / "README.md").write_text("not wanted")
    (checkpoint / "spiece.model").write_text("wanted")
    with HubServer() as server:
        server.repositories["google/switch-base-8"] = Repository()
        server.repositories["google/switch-base-8"].add(checkpoint, "main")
        yield Hub(server, tmp_path / "home", checkpoint)


def test_a_known_name_is_a_model_of_google(hub):
    found = hub.get("switch-base-8")
    commit = hub.server.repositories["google/switch-base-8"].revisions["main"]
    assert (found["name"], found["revision"]) == ("switch-base-8", commit)
    assert found["weights"] > 40


def test_only_what_an_export_reads_is_downloaded_and_safetensors_win(hub):
    (hub.checkpoint / "pytorch_model.bin").write_text("not wanted")
    expected = ["config.json", "generation_config.json", "model.safetensors", "spiece.model"]
    assert hub.get("google/switch-base-8")["files"] == expected
    assert sorted(hub.server.downloads) == expected


@pytest.mark.parametrize("layout", ["bin", "sharded bin", "sharded safetensors"])
def test_every_layout_of_weights_is_downloaded(hub, layout):
    state = read_state(hub.checkpoint)
    if layout == "bin":
        write_bin(hub.checkpoint, state)
    else:
        write_shards(hub.checkpoint, state, layout.split()[1])
    assert hub.get("google/switch-base-8")["weights"] > 40


def test_a_revision_is_a_branch_or_a_commit(hub, tmp_path):
    other = edit_config(save_small(tmp_path / "other"), expert_capacity=7)
    commit = hub.server.repositories["google/switch-base-8"].add(other, "experiment")
    for revision in ("experiment", commit):
        found = hub.get("google/switch-base-8", revision)
        assert (found["capacity"], found["revision"]) == (7, commit)
    assert hub.get("google/switch-base-8")["capacity"] == 64


@pytest.mark.parametrize("model", ["switch-c-2048", "google/switch-xxl-128"])
def test_the_names_of_misdescribed_releases_imply_their_repair(hub, model):
    state = read_state(hub.checkpoint)
    write_state(hub.checkpoint, state | {"decoder.lm_head.weight": -state["shared.weight"]})
    name = f"google/{model.removeprefix('google/')}"
    hub.server.repositories[name] = hub.server.repositories["google/switch-base-8"]
    (repair,) = hub.get(model)["repairs"]
    assert repair.startswith("tie_word_embeddings: true -> false")


def test_a_wrong_revision_is_named(hub):
    error = hub.get("google/switch-base-8", "no-such-branch")["error"]
    assert error == "google/switch-base-8 has no revision 'no-such-branch' on the hub."


def test_a_wrong_name_is_named_with_the_known_ones(hub):
    error = hub.get("google/switch-base-9")["error"]
    assert "the hub has no model google/switch-base-9" in error
    assert "switch-base-8" in error
    assert "Pass a directory" in error


def test_an_illegal_name_is_refused(hub):
    assert "is not a hub id" in hub.get("google/switch base--8")["error"]


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_model_without_config_or_weights_is_refused_before_the_download(hub, missing):
    (hub.checkpoint / missing).unlink()
    assert "cannot be exported" in hub.get("google/switch-base-8")["error"]
    assert hub.server.downloads == set()


def test_without_a_network_the_error_says_how_to_pass_a_directory(hub):
    error = hub.get("switch-base-8", endpoint=NOWHERE)["error"]
    assert "google/switch-base-8 could not be downloaded: ConnectError" in error
    assert "Pass a directory that holds config.json" in error


def test_without_a_network_a_downloaded_model_is_used(hub):
    online = hub.get("switch-base-8")
    assert hub.get("switch-base-8", endpoint=NOWHERE) == online
