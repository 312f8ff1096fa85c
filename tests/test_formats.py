"""Model directories of every format ever released stay loadable."""

import json
from pathlib import Path

import pytest

FORMATS = Path(__file__).parent / "formats"
RELEASED = sorted(int(path.stem) for path in FORMATS.glob("*.json"))


def test_every_format_has_a_committed_directory():
    from switch_export.export import FORMAT

    assert list(range(1, FORMAT + 1)) == RELEASED


@pytest.mark.parametrize("number", RELEASED)
@pytest.mark.parametrize("beams", [1, 4])
def test_a_committed_directory_decodes_as_transformers_did(number, beams):
    import switch_runtime

    recorded = json.loads((FORMATS / f"{number}.json").read_text())
    model = switch_runtime.load(FORMATS / str(number), verify=True)
    results = model.generate(recorded["sources"], num_beams=beams, **recorded["lengths"])
    assert [r.token_ids for r in results] == recorded["ids_by_beams"][str(beams)]
