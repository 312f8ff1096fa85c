"""Fixtures that several test files use. Each variant is made and exported once per session."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
from checkpoints import VARIANTS, Variant, load_oracle, make_checkpoint, random_rows

ROOT = Path(__file__).resolve().parent.parent


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
        return path if path.exists() else make_checkpoint(path, self.variant)

    def directory(self, task: str = "seq2seq") -> Path:
        """The exported model directory."""
        import switch_export

        output = self.folder / f"{self.name}-{task}"
        if not output.exists():
            options = {"verify": False, "task": task} | self.variant.export
            switch_export.export(str(self.checkpoint), output, **options)
        return output

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
def cases(tmp_path_factory) -> dict[str, Case]:
    """Every variant by name.

    tests/mutations.py sets SWITCH_TEST_VARIANTS to a folder that several sessions share, where only
    the runtime differs between them.
    """
    shared = os.environ.get("SWITCH_TEST_VARIANTS")
    folder = Path(shared) if shared else tmp_path_factory.mktemp("variants")
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
def hf_model(tiny):
    """tiny_checkpoint, loaded by transformers."""
    return tiny.oracle


@pytest.fixture(scope="session")
def sources() -> list[list[int]]:
    """A ragged batch; the first row has more tokens than its experts have room for."""
    return random_rows(5, (13, 4, 1, 9))
