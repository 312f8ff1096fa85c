"""Goals that one sparse layer is measured for; see layers.py."""

from collections.abc import Iterator

from switch_bench import layers, machine
from switch_bench.engines import Absent
from switch_bench.goal_models import Finding
from switch_bench.measure import Run
from switch_bench.paths import WORK
from switch_bench.phases import percentiles

_TOKENS = (1, 8, 128)
_PEERS = {
    "fp32": "com.microsoft.MoE fp32",
    "int8": "com.microsoft.QMoE int8 block 32",
    "int8 block 32": "com.microsoft.QMoE int8 block 32",
}


def layer(run: Run) -> Iterator[Finding]:
    """Each kind at 1, 8 and 128 tokens, all in turn, experts rotating."""
    made, cache = [], machine.last_level_cache()
    layers.share_one_pool(run.threads)
    for kind in layers.KINDS:
        try:
            made.append(layers.Layer(kind, layers.sets_needed(kind, cache), WORK / "layers"))
        except Absent as error:
            print(f"absent: {kind.name}: {error}")
            continue
        yield Finding(None, f"{kind.name}, error against numpy", made[-1].check(),
                      f"{made[-1].sets} sets of {layers.EXPERTS} experts")
    for tokens in _TOKENS:
        yield from _at(tokens, made, run)


def _at(tokens: int, made: list, run: Run) -> Iterator[Finding]:
    taken = layers.measure(made, tokens, run.repeats, run.ceiling)
    samples = {name: percentiles(seconds) for name, seconds in taken.items()}
    for name, figures in samples.items():
        yield Finding(None, f"{name}, {tokens} tokens, ms", figures["p50"], "", figures)
    for name, peer in _PEERS.items():
        goal, ours = f"layer {name} {tokens}", samples.get(f"SwitchMoE {name}")
        if ours is None:
            yield Finding(goal, goal, None, "the plugin is absent")
            continue
        mine, other = ours["p50"], samples[peer]["p50"]
        how = f"{mine:.3f} ms against {other:.3f} ms, {peer}"
        yield Finding(goal, goal, other / mine, how)
    if tokens == 1:
        yield from _ceiling(made, samples, run)


def _ceiling(made: list, samples: dict, run: Run) -> Iterator[Finding]:
    for precision in ("fp32", "int8"):
        goal, name = f"ceiling {precision}", f"SwitchMoE {precision}"
        if name not in samples or run.ceiling.best is None:
            reason = getattr(run.ceiling, "reason", "the plugin is absent")
            yield Finding(goal, goal, None, reason)
            continue
        kind = next(layer.kind for layer in made if layer.name == name)
        share = run.ceiling.share(kind.expert_bytes, samples[name]["p50"] / 1e3)
        how = (f"{kind.expert_bytes / 1e6:.2f} MB in {samples[name]['p50']:.3f} ms of "
               f"{run.ceiling.best / 1e9:.1f} GB/s")
        yield Finding(goal, goal, share, how)
