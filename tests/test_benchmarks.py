"""README's figures are those that were measured; a report refuses figures that cannot be true."""

import json

import pytest

from switch_bench import goal_list, plots, report, rows, tables
from switch_bench.goal_list import Goal


def row(engine="switch_runtime int8", cell=(1, 1, 32, 32), **changes):
    """A recorded row of the suite."""
    times = {"p50": 4.0, "p90": 5.0, "p99": 6.0, "n": 5}
    phases = ("load", "encode", "first", "per_token", "total")
    return {
        "shape": "base-8", "engine": engine, "precision": "int8",
        **dict(zip(("batch", "beams", "source", "new"), cell, strict=True)),
        "phases_ms": dict.fromkeys(phases, times), "tokens_per_second": 250.0,
        "anonymous_mib": 60.0, "disk_mib": 700.0, "same_ids": True, "agreement_fp32": 0.9,
        "distinct_experts": [1.0] * 6, "ceiling": 50e9, "ceiling_share": 0.6,
        "threads": 2, "cpu": "a cpu", "date": "2026-11-25", "commit": "abc",
        "versions": {"torch": "2.13.0+cpu", "ctranslate2": "absent"},
    } | changes


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Give the report files of its own; returns a function that records suite and goal rows."""
    readme = tmp_path / "README.md"
    readme.write_text("# x\n\n<!-- bench -->\nold\n<!-- /bench -->\n\nafter\n")
    places = {"README": readme, "PERFORMANCE": tmp_path / "docs" / "performance.md",
              "SUITE": tmp_path / "suite.jsonl", "GOALS": tmp_path / "goals.jsonl",
              "IMAGES": tmp_path / "docs" / "img"}
    for name, path in places.items():
        monkeypatch.setattr(report, name, path)
    monkeypatch.setattr(plots, "PROFILE", tmp_path / "profile.jsonl")
    places["PERFORMANCE"].parent.mkdir()
    names = ("goals", "profile", "cells")
    markers = "\n".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in names)
    places["PERFORMANCE"].write_text(markers)

    def record(suite=(), goals=()):
        for path, made in ((places["SUITE"], suite), (places["GOALS"], goals)):
            for entry in made:
                rows.append(path, entry)
        return tmp_path

    return record


def test_the_tables_are_made_from_the_recorded_rows():
    assert report.outdated() == []


def test_a_table_that_was_not_written_from_the_rows_is_found(recorded):
    folder = recorded([row()])
    assert report.outdated() == ["README.md", "performance.md"]
    report.write_all()
    assert report.outdated() == []
    text = (folder / "README.md").read_text()
    assert "| 4.00 | 6.00 | 60 % | - | - | 60 | 700 | yes | 90 % |" in text
    assert text.endswith("\nafter\n")


def test_the_last_row_of_a_key_counts(recorded):
    folder = recorded([row(disk_mib=1.0), row(disk_mib=2.0)])
    report.write_all()
    assert "| 60 | 2 | yes" in (folder / "README.md").read_text()


def test_no_speed_is_shown_where_ids_are_wrong():
    wrong = row(same_ids=False)
    assert "| - | - | - | - | - | 60 | 700 | no |" in tables.readme([wrong])
    assert "| - | - | - / - / - |" not in tables.cells([wrong])
    assert "4.00" not in tables.cells([wrong]).replace("| 4.00 | - |", "", 1)  # but the load


def test_more_than_the_ceiling_fails_the_report(recorded):
    recorded([row(ceiling_share=1.01)])
    with pytest.raises(ValueError, match=r"switch_runtime int8: 101\.0%"):
        report.write_all()


def test_a_goal_above_the_ceiling_fails_the_report(recorded):
    recorded(goals=[{"goal": "ceiling fp32", "seen": 1.2, "how": "", "group": "layer"}])
    with pytest.raises(ValueError, match=r"ceiling fp32: 120\.0%"):
        report.write_all()


@pytest.mark.parametrize(
    ("less", "seen", "verdict"),
    [(False, 12, "goal"), (False, 9, "must"), (False, 8.9, "missed"), (False, None, "not measured"),
     (True, 9, "goal"), (True, 12, "must"), (True, 12.1, "missed")],
)
def test_verdict_compares_from_the_right_side(less, seen, verdict):
    must, goal = (12, 9) if less else (9, 12)
    assert Goal("k", "m", must, goal, less).verdict(seen) == verdict


def test_every_goal_is_in_the_table_measured_or_not():
    found = [{"goal": "memory", "seen": 0.2, "how": "500 MiB against 2500 MiB"}]
    lines = goal_list.table(found).splitlines()
    assert len(lines) == 2 + len(goal_list.GOALS)
    assert sum("not measured" in line for line in lines) == len(goal_list.GOALS) - 1
    assert "| 0.50 | 0.25 | 0.20 | goal | 500 MiB against 2500 MiB |" in "\n".join(lines)


def test_the_profile_is_told_in_shares(recorded):
    folder = recorded([row()])
    parts = {"experts": 300.0, "head": 100.0}
    rows.append(plots.PROFILE, {"shape": "base-8", "precision": "int8", "parts": parts})
    report.write_all()
    text = (folder / "docs" / "performance.md").read_text()
    assert "| experts | 300 us, 75 % |" in text
    assert "| all | 0.40 ms |" in text


def test_plots_appear_only_where_there_are_rows(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="of the extra `bench`")
    monkeypatch.setattr(plots, "PROFILE", tmp_path / "profile.jsonl")
    assert plots.write([], [], tmp_path / "img") == []
    assert not (tmp_path / "img").exists()
    goals = [{"group": "experts", "what": f"decoder-{n} int8, ms per token", "goal": None,
              "samples": {"p50": 3.0}} for n in (8, 128)]
    made = plots.write([row(), row("transformers fp32")], goals, tmp_path / "img")
    assert [path.name for path in made] == ["peers.svg", "experts.svg"]
    assert all("<svg" in path.read_text() for path in made)


def test_rows_are_one_json_object_per_line(tmp_path):
    for value in (1, 2):
        rows.append(tmp_path / "a" / "x.jsonl", {"value": value})
    text = (tmp_path / "a" / "x.jsonl").read_text()
    assert [json.loads(line)["value"] for line in text.splitlines()] == [1, 2]
