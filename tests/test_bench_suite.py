"""The suite's parts on small models: timing, ids, engines, checkpoints, layers, the command."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from switch_bench import (
    cli,
    engines,
    fresh,
    goal_models,
    layers,
    measure,
    phases,
    profile,
    same_ids,
    shapes,
    suite,
)
from switch_bench.bandwidth import NoCeiling
from switch_bench.cells import Cell, batches, sources

CELL = Cell(2, 1, 8, 4)


class Clockwork:
    """An engine on a clock of its own: 5 ms for the encoder, 2 ms for each token."""

    def __init__(self, name, clock):
        self.name, self.clock, self.precision, self.disk_mib = name, clock, "fp32", 1.0
        self.vocabulary = 50
        self.loaded = {"seconds": 0.5, "anonymous_mib": 1.0, "file_mib": 2.0}

    def decode(self, rows, cell, new):
        self.clock.append((self.name, len(rows), cell, new))
        self.clock.now += 0.005 + 0.002 * new
        return [[7] * new for _ in rows]


class Clock(list):
    now = 0.0


@pytest.fixture(autouse=True)
def torch_threads():
    """Engines set them for the process; on shared cores that slows all tests that follow."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(phases.time, "perf_counter", lambda: clock.now)
    return clock


def test_phases_follow_from_two_lengths(clock):
    engine = Clockwork("a", clock)
    samples = phases.interleave({"a": engine}, batches(CELL, 50, 3), CELL, NoCeiling(""))["a"]
    figures = samples.phases()
    expected = {"encode": 5, "first": 7, "per_token": 2, "total": 13}
    assert {name: figures[name]["p50"] for name in figures} == pytest.approx(expected)
    assert figures["total"]["n"] == 3


def test_engines_take_turns_on_the_same_rows(clock):
    pair = {name: Clockwork(name, clock) for name in "ab"}
    phases.interleave(pair, batches(CELL, 50, 2), CELL, NoCeiling(""))
    assert [(name, new) for name, _, _, new in clock] == [
        (name, new) for _ in range(2) for name in "ab" for new in (1, 1, CELL.new)
    ]


def test_sources_differ_between_rows_and_repeats_and_end():
    rows = [row for repeat in batches(CELL, 50, 3) for row in repeat]
    assert len({tuple(row) for row in rows}) == len(rows) == 6
    assert {len(row) for row in rows} == {CELL.source}
    assert {row[-1] for row in rows} == {1}
    assert min(min(row[:-1]) for row in rows) >= 3


@pytest.mark.parametrize(
    ("expected", "found", "same", "share"),
    [
        ([[5, 6, 7]], [[5, 6, 7]], True, 1.0),
        ([[5, 6, 1]], [[5, 6]], True, 2 / 3),  # transformers keeps the end token
        ([[5, 6, 7]], [[5, 6]], False, 2 / 3),
        ([[5, 6, 7, 8]], [[5, 6, 9, 8]], False, 0.5),
        ([[5], [6]], [[5], [7]], False, 0.5),
    ],
)
def test_ids_are_compared_but_for_end_and_padding(expected, found, same, share):
    assert same_ids.equal(expected, found) is same
    assert same_ids.agreement(expected, found) == pytest.approx(share)


def test_margin_is_how_close_the_first_different_decision_was():
    class Scores:
        def forward(self, source, target):  # noqa: ARG002 - as the runtime's
            return np.array([[0.0, 8.0, 4.0, 2.0]] * len(target))

    assert same_ids.margin(Scores(), [[5], [6]], [[1, 1], [1, 2]], [[1, 1], [1, 3]]) == 0.25


def test_memory_is_that_of_a_process_of_its_own(tiny_directory):
    found = fresh.memory_of(tiny_directory, 1, True)
    assert 0 < found["anonymous_mib"] < found["process_mib"]["RssAnon"] < 500


def test_a_measured_cell_is_not_measured_again(clock, tmp_path, monkeypatch):
    made = []

    def all_engines(*_):
        made.append(1)
        return {"a": Clockwork("a", clock)}

    monkeypatch.setattr(suite, "all_engines", all_engines)
    run = measure.Run(2, 1, NoCeiling(""), {"commit": "abc"})
    wanted = [Cell(1, 1, 8, 4), Cell(2, 1, 8, 4)]
    result = tmp_path / "suite.jsonl"
    suite.measured("base-8", wanted[:1], run, True, result)
    suite.measured("base-8", wanted, run, True, result)
    suite.measured("base-8", wanted, run, True, result)
    batches_seen = [json.loads(line)["batch"] for line in result.read_text().splitlines()]
    assert batches_seen == [1, 2]
    assert len(made) == 2
    later = measure.Run(2, 1, NoCeiling(""), {"commit": "def"})
    suite.measured("base-8", wanted[:1], later, True, result)
    assert len(result.read_text().splitlines()) == 3


def test_a_cell_of_our_engine_carries_routing_bytes_and_ids(tiny_directory, monkeypatch):
    engine = engines.Ours(tiny_directory, 0)
    asked = []

    def body_ids(directory, cell, rows, threads):
        asked.append((directory, cell, threads))
        return engine.decode(rows, cell, cell.new)

    monkeypatch.setattr(same_ids, "body_ids", body_ids)
    run = measure.Run(2, 2, NoCeiling(""), {"commit": "abc"})
    row, = measure.measure_cell("tiny", CELL, {engine.name: engine}, run)
    assert row["same_ids"] is True
    assert row["agreement_fp32"] == 1.0
    assert asked == [(tiny_directory, CELL, 2)]
    assert all(1 <= count <= 2 for count in row["distinct_experts"])
    assert row["step_bytes"]["experts"] > 0
    assert row["rotates"] is False
    assert row["ceiling_share"] is None


def test_decoding_has_the_same_ids_as_transformers(tiny_directory, tiny_checkpoint):
    cell = Cell(2, 4, 8, 6)
    rows = sources(cell, 40, 0)
    peer = engines.Transformers(tiny_checkpoint, "fp32", 2)
    found = engines.Ours(tiny_directory, 0).decode(rows, cell, cell.new)
    assert same_ids.equal(peer.decode(rows, cell, cell.new), found)


def test_the_plugin_is_switched_off_for_one_load_only(monkeypatch):
    import os

    monkeypatch.setenv("SWITCH_PLUGIN_LIBRARY", "mine.so")
    with engines._plugin(False):
        assert os.environ["SWITCH_PLUGIN_LIBRARY"] == "none"
    assert os.environ["SWITCH_PLUGIN_LIBRARY"] == "mine.so"
    monkeypatch.delenv("SWITCH_PLUGIN_LIBRARY")
    with engines._plugin(False):
        pass
    assert "SWITCH_PLUGIN_LIBRARY" not in os.environ


@pytest.fixture
def small_shapes(monkeypatch):
    """Two shapes of a few kilobytes that differ in their experts."""
    sizes = {"_DECODER_LAYERS": 2, "_D_MODEL": 16, "_D_FF": 32, "_HEADS": 2, "_D_KV": 8,
             "_VOCABULARY": 50}
    for name, value in sizes.items():
        monkeypatch.setattr(shapes, name, value)
    made = {"few": shapes.Shape(8, 2), "many": shapes.Shape(32, 2, stored="bfloat16")}
    monkeypatch.setattr(shapes, "SHAPES", made)
    return tuple(made)


def test_random_checkpoints_are_complete_and_share_their_experts(small_shapes, tmp_path):
    from transformers import SwitchTransformersForConditionalGeneration as Model

    models = {}
    for name in small_shapes:
        path = shapes.random_checkpoint(name, tmp_path)
        models[name], info = Model.from_pretrained(path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
    few, many = (model.state_dict() for model in models.values())
    name = "decoder.block.1.layer.2.mlp.experts.expert_3.wi.weight"
    assert few[name].bfloat16().equal(many[name].bfloat16())
    assert (few[name] != few[name.replace("expert_3", "expert_4")]).any()


@pytest.mark.parametrize("kind", layers.KINDS, ids=lambda kind: kind.name)
def test_a_layer_computes_what_numpy_does(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "D_MODEL", 64)
    monkeypatch.setattr(layers, "D_FF", 96)
    try:
        layer = layers.Layer(kind, 2, tmp_path, pooled=False)
    except engines.Absent:
        assert kind.operator == "SwitchMoE"
        pytest.skip("the plugin library has not been built")
    assert layer.check() < 5e-2
    taken = layers.measure([layer], 3, 2, NoCeiling(""))
    assert len(taken[kind.name]) == 2


def test_figures_against_a_peer_that_is_absent_are_none():
    finding = goal_models._against("encode 512", 3.0, goal_models._best({"x": 1.0}, "CTranslate2"))
    assert finding.seen is None
    assert "absent" in finding.how


def test_speed_is_peer_over_ours_and_the_best_peer_counts():
    ms = {"CTranslate2 T5-base int8": 6.0, "CTranslate2 T5-base float32": 9.0, "x": 1.0}
    finding = goal_models._against("decode int8 ct2", 2.0, goal_models._best(ms, "CTranslate2"))
    assert finding.seen == 3.0
    assert "int8" in finding.how


def test_switch_bench_prints_every_figure(tiny_directory):
    done = CliRunner().invoke(cli.main, [
        str(tiny_directory), "--repeats", "2", "--new", "4", "--source", "8", "--beams", "2",
    ])
    assert done.exit_code == 0, done.output
    for name in ("load", "encode", "first", "per token", "total", "p99", "tokens/s", "anonymous",
                 "on disk", "step reads", "distinct of a layer per step",
                 "no share of the bandwidth ceiling"):
        assert name in done.output, name


def test_switch_bench_explains_a_directory_that_is_none(tmp_path):
    done = CliRunner().invoke(cli.main, [str(tmp_path)])
    assert done.exit_code == 1
    assert "Error" in done.output
    assert "Traceback" not in done.output


def test_switch_bench_needs_no_peer():
    code = ("import sys, switch_bench.cli, switch_bench.measure, switch_bench.engines;"
            "print(*[n for n in ('torch', 'transformers', 'ctranslate2', 'onnxruntime', "
            "'matplotlib', 'switch_export') if n in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_ctranslate2_runs_a_model_of_random_weights(tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2", reason="of the extra `bench`")
    from switch_bench import ctranslate

    monkeypatch.setenv("CT2_USE_MKL", "0")
    sizes = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2, "d_kv": 16}
    path = ctranslate.converted(tmp_path, **sizes, vocab_size=60)
    setting = ctranslate.Setting("0", "float32", 1)
    rows = sources(CELL, 60, 0)
    ctranslate.CTranslate2(path, setting).decode(rows, CELL, 4)
    ctranslate.CTranslate2(path, setting, encoder=True).encode(rows)


def test_the_best_setting_is_of_the_fastest_backend():
    from switch_bench import ctranslate

    found = [
        {"mkl": mkl, "compute": compute, "threads": threads, "decode_ms": ms}
        for mkl, compute, threads, ms in (
            ("0", "int8", 1, 5.0), ("0", "int8", 2, 3.0), ("0", "float32", 2, 9.0),
            ("1", "int16", 2, 4.0))
    ]
    chosen = ctranslate.best(found, "decode_ms")
    assert {(s.mkl, s.compute, s.threads) for s in chosen} == {
        ("0", "int8", 2), ("0", "float32", 2)}


def test_weights_of_a_layer_have_scales_only_where_they_are_quantised(monkeypatch):
    monkeypatch.setattr(layers, "D_MODEL", 64)
    monkeypatch.setattr(layers, "D_FF", 96)
    grids = {kind.name: layers.weights(kind, 0) for kind in layers.KINDS}
    assert set(grids["SwitchMoE fp32"]) == {"wi", "wo"}
    assert grids["SwitchMoE int8"]["wi_scale"].shape == (8, 96)
    assert grids["SwitchMoE int8 block 32"]["wo_scale"].shape == (8, 64, 3)
    assert grids["SwitchMoE int8"]["wi"].dtype == np.int8


def test_score_gap_is_what_two_hypotheses_differ_by_per_token():
    class Scores:
        def forward(self, _source, target):
            logits = np.log(np.array([[0.5, 0.25, 0.25]] * len(target)))
            return logits.astype(np.float32)

    rows, expected, found = [[5], [6]], [[0, 0], [0]], [[0, 0], [1]]
    assert same_ids.score_gap(Scores(), rows, expected, expected) == 0
    assert same_ids.score_gap(Scores(), rows, expected, found) == pytest.approx(0.5)


def test_profile_adds_the_medians_of_nodes_by_part():
    def event(name, operator, microseconds, shape="[1, 1, 8]"):
        arguments = {"op_name": operator, "output_type_shape": [{"float": shape}]}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds,
                "args": arguments}

    events = [
        event("a", "SwitchMoE", 9), event("a", "SwitchMoE", 5), event("a", "SwitchMoE", 7),
        event("b", "SwitchLinear", 3), event("c", "SwitchLinear", 20, "[1, 1, 99]"),
        event("d", "SwitchNorm", 1), event("e", "SwitchRouter", 2), event("f", "Mul", 4),
        {"cat": "Session", "name": "model_run", "dur": 100},
    ]
    assert profile.parts_of(events, 99) == {
        "head": 20, "experts": 7, "other": 4, "projections": 3, "norms and routers": 3,
    }
