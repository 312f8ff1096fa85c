"""Repeatability, streams, graphs, and what a call must not do: allocate, wait, overrun."""

import contextlib
import time

import pytest
import torch
from moe_layers import Layer, Size, assert_close, layer

from switch_export.quantize import Precision
from switch_gpu_bench.ops import Classifier, Norm, Routes
from switch_gpu_bench.timing import DEVICE, capture, synchronize

CALLS = [
    (1, "bf16"), (8, "bf16"), (40, "bf16"), (300, "bf16"), (2048, "bf16"), (8, "int8"),
    (300, "int8"), (300, "fp32"),
]
every_call = pytest.mark.parametrize(("tokens", "weight"), CALLS)


def made(tokens: int, weight: str) -> Layer:
    large = tokens > 300
    size = Size(tokens, 8, *((768, 3072) if large else (256, 512)))
    return layer(size, "fp32" if weight == "fp32" else "bf16", Precision(weight))


@pytest.fixture
def one(tokens, weight, place) -> Layer:
    if place != "a GPU" and tokens > 300:
        pytest.skip(f"too much for {place}")
    return made(tokens, weight)


@every_call
def test_twenty_runs_give_the_same_bits(make_ops, one):
    first = one.run(make_ops())
    synchronize()
    for number in range(20):
        ops = make_ops(overlap=number % 2 == 0)
        stream = contextlib.nullcontext()
        if DEVICE == "cuda" and number % 3:
            stream = torch.cuda.stream(torch.cuda.Stream())
        with stream:
            again = one.run(ops)
            synchronize()
        assert torch.equal(again, first), f"run {number}"


@every_call
def test_a_graph_follows_the_routes_of_each_replay(ops, one):
    y = torch.empty(one.x.shape, device=DEVICE)
    replay = capture(lambda: ops.moe(one.x, one.expert, one.gate, one.experts, y))
    for seed in range(3):
        other = torch.Generator(DEVICE).manual_seed(seed)
        one.expert.random_(-1, 8 if seed else 1, generator=other)
        one.x.copy_(torch.randn(one.x.shape, generator=other, device=DEVICE))
        y.fill_(float("nan"))
        replay()
        assert_close(y, one.expected(), one.tolerance)


def test_a_graph_of_router_and_layer_follows_its_input(ops):
    one = made(40, "bf16")
    generator = torch.Generator(DEVICE).manual_seed(3)
    classifier = Classifier(torch.randn(8, 256, generator=generator, device=DEVICE))
    norm = Norm(torch.ones(256, device=DEVICE), 1e-6, torch.bfloat16)
    x = torch.randn(1, 40, 256, generator=generator, device=DEVICE)
    routes = Routes(one.x[None], one.expert[None], one.gate[None])
    y = torch.empty(40, 256, device=DEVICE)

    def body() -> None:
        ops.router(x, norm, classifier, routes)
        ops.moe(one.x, one.expert, one.gate, one.experts, y)

    replay = capture(body)
    chosen = []
    for _ in range(3):
        x.normal_(generator=generator)
        replay()
        assert_close(y, one.expected(), one.tolerance)
        chosen.append(one.expert.clone())
    assert not torch.equal(chosen[0], chosen[1])


class Guarded:
    """Allocates with a pattern before and behind."""

    EDGE = 1024

    def __init__(self):
        self.blocks = []

    def __call__(self, size: int) -> torch.Tensor:
        block = torch.full((size + 2 * self.EDGE,), 0xA5, dtype=torch.uint8, device=DEVICE)
        self.blocks.append(block)
        return block[self.EDGE : self.EDGE + size]

    def assert_untouched(self) -> None:
        for block in self.blocks:
            for edge in (block[: self.EDGE], block[-self.EDGE :]):
                assert bool((edge == 0xA5).all()), "bytes outside the given memory were written"


@every_call
def test_nothing_is_written_outside_workspace_and_output(make_ops, one):
    guard = Guarded()
    ops = make_ops(allocate=guard)
    y = guard(one.x.numel() * 4).view(torch.float32).view(one.x.shape)
    ops.moe(one.x, one.expert, one.gate, one.experts, y)
    assert_close(y, one.expected(), one.tolerance)
    guard.assert_untouched()


@every_call
def test_a_call_neither_allocates_nor_waits(ops, one, place):
    if place != "a GPU":
        pytest.skip(f"there is nothing to wait for on {place}")
    y = torch.empty(one.x.shape, device=DEVICE)
    busy = torch.cuda.Event()
    torch.cuda._sleep(1)  # modules are loaded when their kernels first run
    ops.moe(one.x, one.expert, one.gate, one.experts, y)
    busy.record()
    synchronize()
    free, _ = torch.cuda.mem_get_info()
    torch.cuda._sleep(int(1e9))  # about half a second
    busy.record()
    began = time.perf_counter()
    for _ in range(10):
        ops.moe(one.x, one.expert, one.gate, one.experts, y)
    taken, was_busy = time.perf_counter() - began, not busy.query()
    synchronize()
    assert was_busy, f"the calls took {taken:.3f} s: they waited for the device"
    assert torch.cuda.mem_get_info()[0] == free
