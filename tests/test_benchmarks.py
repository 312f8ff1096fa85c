"""README.md's figures are those that were measured."""

import importlib.util
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def test_the_table_of_the_readme_is_made_from_the_recorded_rows():
    spec = importlib.util.spec_from_file_location("report", BENCHMARKS / "report.py")
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    text = (BENCHMARKS.parent / "README.md").read_text()
    rows = report.read_rows()
    assert report.replaced(text, rows) == text
    assert {row["same_ids"] for row in rows} == {True}
