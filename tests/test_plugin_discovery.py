"""Where the runtime's core looks for the operator library, without Python's help."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import switch_plugins
import switch_runtime
from switch_runtime import native

# Loads a model through the C API alone and prints what the core says of it.
LOAD = """
import ctypes, sys
from switch_runtime import native
library = native.library()
options = native.LoadOptions(size=ctypes.sizeof(native.LoadOptions))
options.ort_library = native.path_argument(native.onnxruntime_library())
if len(sys.argv) > 2:
    options.plugin_library = sys.argv[2].encode()
handle = library.switch_model_load(sys.argv[1].encode(), ctypes.byref(options))
if not handle:
    sys.exit(library.switch_last_error().decode())
print(library.switch_model_describe(handle).decode())
"""


def load(directory: Path, *option: str, **environment: str) -> subprocess.CompletedProcess:
    """Run LOAD in a process of its own; SWITCH_ variables are only those that are given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWITCH_")}
    return subprocess.run(
        [sys.executable, "-c", LOAD, str(directory), *option], capture_output=True, text=True,
        check=False, env=kept | environment,
    )


def plugin_of(done: subprocess.CompletedProcess) -> str | None:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["plugin_library"]


@pytest.fixture
def packages(tmp_path):
    """A site-packages of copies: the core library and, in the sibling package, the plugin."""
    core, plugin = native.LIBRARY, switch_plugins.library_path()
    assert plugin is not None, "`make native` builds it"
    for source, package in ((core, "switch_runtime"), (plugin, "switch_plugins")):
        folder = tmp_path / package / "lib"
        folder.mkdir(parents=True)
        shutil.copy(source, folder)
    return tmp_path


def runtime_of(packages: Path) -> dict[str, str]:
    library = packages / "switch_runtime" / "lib" / native.LIBRARY.name
    return {"SWITCH_RUNTIME_LIBRARY": str(library)}


def test_the_sibling_package_is_found(packages, tiny_directory):
    found = plugin_of(load(tiny_directory, **runtime_of(packages)))
    assert Path(found).resolve() == packages / "switch_plugins" / "lib" / "libswitch_moe_ort.so"


def test_a_library_beside_the_core_comes_first(packages, tiny_directory):
    beside = packages / "switch_runtime" / "lib" / "libswitch_moe_ort.so"
    shutil.copy(packages / "switch_plugins" / "lib" / beside.name, beside)
    found = plugin_of(load(tiny_directory, **runtime_of(packages)))
    assert Path(found).resolve() == beside


def test_a_core_that_is_loaded_through_a_link_finds_what_lies_beside_its_file(
    packages, tiny_directory, tmp_path
):
    link = tmp_path / "elsewhere" / "libswitch_runtime.so.1"
    link.parent.mkdir()
    link.symlink_to(packages / "switch_runtime" / "lib" / native.LIBRARY.name)
    found = plugin_of(load(tiny_directory, SWITCH_RUNTIME_LIBRARY=str(link)))
    assert Path(found).resolve() == packages / "switch_plugins" / "lib" / "libswitch_moe_ort.so"


def test_without_one_the_function_bodies_run(packages, tiny_directory):
    shutil.rmtree(packages / "switch_plugins")
    assert plugin_of(load(tiny_directory, **runtime_of(packages))) is None


@pytest.mark.parametrize("option", [(), ("none",)])
def test_none_means_no_library(packages, tiny_directory, option):
    environment = {} if option else {"SWITCH_PLUGIN_LIBRARY": "none"}
    assert plugin_of(load(tiny_directory, *option, **environment, **runtime_of(packages))) is None


def test_a_library_that_is_not_there_is_named(packages, tiny_directory):
    done = load(tiny_directory, SWITCH_PLUGIN_LIBRARY="/nowhere.so", **runtime_of(packages))
    assert done.returncode != 0
    assert "/nowhere.so ($SWITCH_PLUGIN_LIBRARY) does not exist" in done.stderr


def test_python_says_which_library_runs(tiny_directory):
    with switch_runtime.load(tiny_directory) as model:
        assert Path(model.describe()["plugin_library"]).samefile(switch_plugins.library_path())


def test_the_model_directory_is_never_searched(packages, tiny_directory, tmp_path):
    shutil.rmtree(packages / "switch_plugins")
    directory = shutil.copytree(tiny_directory, tmp_path / "model")
    shutil.copy(switch_plugins.library_path(), directory)
    assert plugin_of(load(directory, **runtime_of(packages))) is None

