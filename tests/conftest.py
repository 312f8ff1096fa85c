"""Fixtures that several test files use. Each variant is made and exported once per session."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
from checkpoints import VARIANTS, Variant, load_oracle, make_checkpoint, random_rows
from directories import with_tokenizer

ROOT = Path(__file__).resolve().parent.parent
#: It has settings of its own, tests/gpu/pytest.ini, and a conftest.py that is not to replace this.
collect_ignore = ["gpu"]
#: Files that pytest's workers start with, so that none of them is all that is left at the end.
LONGEST = (
    "test_sanitizers_address", "test_sanitizers_thread", "test_export_cli", "test_hub",
    "test_parity_generate", "test_embedding", "test_memory",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def command(module: str, *arguments: object) -> str:
    """Run a command line as its entry point does; its standard output."""
    result = subprocess.run(
        [sys.executable, "-c", f"from {module}.cli import main; main()", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=300, check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def made_once(path: Path, make: Callable[[], object]) -> Path:
    """`path` in a folder that workers share: the first that asks makes it, the others wait."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make()
    return path


@dataclass
class Case:
    """One variant, built when it is first asked for."""

    name: str
    variant: Variant
    folder: Path
    kept: dict = field(default_factory=dict)

    @cached_property
    def checkpoint(self) -> Path:
        """The Hugging Face directory."""
        path = self.folder / f"{self.name}-checkpoint"
        return made_once(path, lambda: make_checkpoint(path, self.variant))

    def directory(self, task: str = "seq2seq") -> Path:
        """The exported model directory."""
        import switch_export

        output = self.folder / f"{self.name}-{task}"
        options = {"verify": False, "task": task} | self.variant.export
        return made_once(
            output, lambda: switch_export.export(str(self.checkpoint), output, **options)
        )

    def model(self, task: str = "seq2seq"):
        """The directory in switch_runtime."""
        import switch_runtime

        if task not in self.kept:
            self.kept[task] = switch_runtime.load(self.directory(task))
        return self.kept[task]

    @cached_property
    def oracle(self):
        """The checkpoint in transformers, under the variant's capacity policy."""
        return load_oracle(self.checkpoint, self.variant.export.get("capacity", "hf"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory, request) -> Path:
    """A folder of this session that all of its workers see."""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # a worker's folder is inside the session's
        folder = folder.parent
    folder /= "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def cases(shared) -> dict[str, Case]:
    """Every variant by name.

    tests/mutations.py sets SWITCH_TEST_VARIANTS to a folder that several sessions share, where only
    the runtime differs between them.
    """
    folder = Path(os.environ.get("SWITCH_TEST_VARIANTS") or shared)
    return {name: Case(name, variant, folder) for name, variant in VARIANTS.items()}


@pytest.fixture(scope="session")
def tiny(cases) -> Case:
    """The variant that most tests use."""
    return cases["tiny"]


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny) -> Path:
    """A seeded random checkpoint in Hugging Face layout."""
    return tiny.checkpoint


@pytest.fixture(scope="session")
def tiny_directory(tiny) -> Path:
    """tiny_checkpoint, exported."""
    return tiny.directory()


@pytest.fixture(scope="session")
def tiny_model(tiny):
    """tiny_directory, loaded by switch_runtime."""
    return tiny.model()


@pytest.fixture(scope="session")
def text_directory(tiny_directory, tmp_path_factory) -> Path:
    """tiny_directory with a tokenizer."""
    return with_tokenizer(tiny_directory, tmp_path_factory.mktemp("text") / "model")


@pytest.fixture(scope="session")
def text_model(text_directory):
    """text_directory, loaded by switch_runtime."""
    import switch_runtime

    with switch_runtime.load(text_directory) as model:
        yield model


@pytest.fixture(scope="session")
def encoder_model(tiny):
    """tiny_checkpoint, exported as an encoder and loaded by switch_runtime."""
    return tiny.model("encoder")


@pytest.fixture
def stays_usable(tiny_model):
    """Whatever a test did to the model, it decodes as before."""
    before = tiny_model.generate([5, 6, 7, 1], max_new_tokens=4)
    yield
    assert tiny_model.generate([5, 6, 7, 1], max_new_tokens=4) == before


@pytest.fixture(scope="session")
def hf_model(tiny):
    """tiny_checkpoint, loaded by transformers."""
    return tiny.oracle


@pytest.fixture(scope="session")
def switch_tiny_directory(shared) -> Path:
    """examples/switch-tiny, exported by the command."""
    output = shared / "switch-tiny"

    def make() -> None:
        checkpoint = ROOT / "examples" / "switch-tiny"
        printed = command("switch_export", "--model", checkpoint, "--output", output)
        assert printed.splitlines()[-1] == str(output)

    return made_once(output, make)


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """The prefix of what `cmake --install` gives programs in C and C++."""
    from embedding import install

    return install(tmp_path_factory.mktemp("embedding"))


@pytest.fixture(scope="session")
def sources() -> list[list[int]]:
    """A ragged batch; the first row has more tokens than its experts have room for."""
    return random_rows(5, (13, 4, 1, 9))
