"""Bytes per step against values worked out by hand; routing counts; rotation of the weights."""

import numpy as np
import pytest

from switch_bench import bandwidth, layers
from switch_bench.routing import decoder_routing
from switch_bench.traffic import Format, Step, dense_bytes, expert_bytes, step_bytes
from switch_runtime.model import Route

BASE_8 = {
    "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12,
    "num_decoder_layers": 12, "num_experts": 8, "sparse_decoder_layers": [1, 3, 5, 7, 9, 11],
}
ONE = Step(sources=1, beams=1, source=0, cached=0, experts=(1.0,) * 6)
# In million weights: 12 x 4 x 768^2, 12 x 2 x 768^2, 6 x 2 x 768 x 3072 twice, 32128 x 768.
MILLIONS = {"self-attention": 28.311552, "cross-attention": 14.155776, "dense MLPs": 28.311552,
            "experts": 28.311552, "head": 24.674304}
# Of bytes: 6 routers of 8 x 768, 3 norms of 12 blocks and the last one, all float32.
ROUTER_AND_NORMS = (6 * 6144 + 37 * 768) * 4


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2), ("int8", 1)])
def test_parts_of_a_step(precision, width):
    parts = step_bytes(BASE_8, Format(precision), ONE)
    expected = {name: 1e6 * count * width for name, count in MILLIONS.items()}
    assert {name: parts[name] for name in MILLIONS} == pytest.approx(expected)
    assert parts["router and norms"] == ROUTER_AND_NORMS
    assert parts["caches"] == 0


@pytest.mark.parametrize(
    ("form", "codes_mb", "scales_mb"),
    [
        (Format("fp32"), 495.3, 0),
        (Format("bf16"), 247.8, 0),
        # A scale per output: 12 x (2304 + 3 x 768) + 12 x (3072 + 768) + 32128 of 4 bytes.
        (Format("int8"), 124.0, 0.534),
        # A scale per 32 weights: an eighth of a byte per weight on top of a half.
        (Format("int4", 32), 62.1, 15.47),
    ],
)
def test_totals_of_base_8(form, codes_mb, scales_mb):
    parts = step_bytes(BASE_8, form, ONE)
    scales = parts.pop("scales")
    assert sum(parts.values()) / 1e6 == pytest.approx(codes_mb, abs=0.06)
    assert scales / 1e6 == pytest.approx(scales_mb, abs=0.006)


def test_int4_with_float32_scales_is_5_bits_a_weight():
    total = sum(step_bytes(BASE_8, Format("int4", 32), ONE).values())
    assert total == 1e6 * sum(MILLIONS.values()) * 5 / 8 + ROUTER_AND_NORMS


def test_caches_are_read_once_per_source_and_once_per_beam():
    """18,432 elements per token: 12 layers x keys and values x 768."""
    def caches(**step):
        parts = step_bytes(BASE_8, Format("fp32"), Step(**step, experts=ONE.experts))
        return parts["caches"] / 18432 / 4

    assert caches(sources=1, beams=1, source=128, cached=64) == 192
    assert caches(sources=1, beams=4, source=128, cached=64) == 128 + 4 * 64
    assert caches(sources=8, beams=1, source=128, cached=64) == 8 * 192


def test_each_distinct_expert_is_read_once():
    form = Format("int8", 32)
    few = step_bytes(BASE_8, form, ONE)
    many = step_bytes(BASE_8, form, Step(8, 1, 0, 0, (5.25,) * 6))
    assert many["experts"] == pytest.approx(5.25 * few["experts"])
    assert many["dense MLPs"] == few["dense MLPs"]
    assert sum(few.values()) == pytest.approx(
        dense_bytes(BASE_8, form) + 6 * expert_bytes(BASE_8, form)
    )


class Routed:
    """A model whose two decoder layers route by the target's ids."""

    def route(self, source, target):  # noqa: ARG002 - as the runtime's
        ids = np.array(target, np.int32)
        gate = np.ones(len(ids), np.float32)
        return {"encoder.1": Route(ids * 0, gate), "decoder.1": Route(ids % 4, gate),
                "decoder.3": Route(np.where(ids == 9, -1, 0), gate)}


def test_distinct_experts_are_counted_over_the_rows_of_a_step():
    groups = [[([1], [4, 5, 6, 9]), ([1], [8, 6, 6, 9])]]
    found = decoder_routing(Routed(), groups, steps=4)
    assert found.per_step == ((1 + 2 + 1 + 1) / 4, (1 + 1 + 1 + 0) / 4)  # a dropped one is none
    assert found.touched == {("decoder.1", 0), ("decoder.1", 1), ("decoder.1", 2), ("decoder.3", 0)}


def test_steps_beyond_the_capacity_are_left_out():
    assert decoder_routing(Routed(), [[([1], [4, 5, 6, 9])]], steps=2).touched == {
        ("decoder.1", 0), ("decoder.1", 1), ("decoder.3", 0)}


@pytest.mark.parametrize("tokens", [1, 8, 128])
@pytest.mark.parametrize("kind", layers.KINDS, ids=lambda kind: kind.name)
def test_a_sweep_touches_more_than_four_times_the_cache(kind, tokens):
    cache = 32 << 20
    sets = layers.sets_needed(kind, cache)
    sweep = layers.calls(tokens, sets)
    touched = {(number, int(e)) for number, chosen in sweep for e in chosen}
    assert len(touched) == sets * layers.EXPERTS
    assert len(touched) * kind.expert_bytes >= 4 * cache
    if tokens == 1:
        assert len(sweep) == len(touched)  # none twice
    assert layers.sweep_bytes(kind, sweep) >= len(touched) * kind.expert_bytes


def test_ceiling_is_the_best_of_all_kernels(monkeypatch):
    asked = []

    def read(_data, size, streams, threads):
        asked.append((size, streams, threads))
        return {1: 30e9, 4: 50e9, 8: 40e9}[streams] + len(asked)

    monkeypatch.setattr(bandwidth, "_native_probe", lambda: read)
    monkeypatch.setattr(bandwidth, "SIZE", 1 << 12)
    limit = bandwidth.ceiling(3)
    limit.probe()
    limit.probe()
    assert {entry[1] for entry in asked} == {1, 4, 8}
    assert {(size, threads) for size, _, threads in asked} == {(1 << 12, 3)}
    assert limit.best == max(limit.by_streams.values()) == pytest.approx(50e9, abs=20)
    assert limit.share(limit.best, 2.0) == 0.5


def test_without_the_library_there_is_a_reason_instead_of_a_share(monkeypatch):
    import switch_plugins

    monkeypatch.setattr(switch_plugins, "library_path", lambda: None)
    limit = bandwidth.ceiling(2)
    limit.probe()
    assert limit.best is None
    assert limit.share(1, 1) is None
    assert "has not been built" in limit.reason
