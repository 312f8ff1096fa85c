"""The native tests under the sanitizers of addresses and undefined behaviour."""

import pytest
from sanitizers import PROGRAMS, assert_clean, build


@pytest.fixture(scope="module")
def folder():
    """Where the programs are, built when they are first asked for."""
    return build("asan", PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_native_program_is_clean(folder, program):
    assert_clean(folder / program)
