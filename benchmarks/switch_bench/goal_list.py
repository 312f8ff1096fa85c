"""What the project has to reach: measures, limits, and the verdict on a figure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One measure. `must` and `goal` are limits from below, from above with `less`."""

    key: str
    measure: str
    must: float
    goal: float
    less: bool = False
    unit: str = "x"

    def verdict(self, seen: float | None) -> str:
        """Return "goal", "must" or "missed"; "not measured" without a figure."""
        if seen is None:
            return "not measured"
        sign = -1 if self.less else 1
        if sign * seen >= sign * self.goal:
            return "goal"
        return "must" if sign * seen >= sign * self.must else "missed"

    def shown(self, value: float | None) -> str:
        """Return a figure with the measure's unit."""
        if value is None:
            return "-"
        return {"x": f"{value:.2f}x", "%": f"{100 * value:.0f} %", "points": f"{value:+.2f} points",
                "": f"{value:.2f}"}[self.unit]


def _layer(name: str, peer: str, limits: dict[int, tuple[float, float]]) -> tuple[Goal, ...]:
    return tuple(
        Goal(f"layer {name} {tokens}",
             f"SwitchMoE layer {name} against `com.microsoft.{peer}`, {tokens} token"
             + ("s" if tokens > 1 else ""), *limit)
        for tokens, limit in limits.items()
    )


_QMOE = {1: (1.0, 1.2), 8: (1.2, 2.0), 128: (1.2, 2.0)}
GOALS = (
    Goal("decode int8 fp32", "decode, batch 1, int8, base-8, against transformers fp32", 9, 12),
    Goal("decode int8 bf16", "decode, batch 1, int8, base-8, against transformers bf16", 5, 8),
    Goal("decode fp32 fp32", "decode, batch 1, fp32, base-8, against transformers fp32", 4.5, 5.5),
    Goal("decode int8 ct2",
         "decode, batch 1, int8, against CTranslate2 dense T5-base at its best", 2.2, 3),
    Goal("decode int4 int8", "decode, batch 1, int4, against our int8", 1.2, 1.5),
    Goal("encode 128", "encode, 128 tokens, int8, against transformers fp32", 5, 8),
    Goal("encode 512",
         "encode, 512 tokens, int8, against CTranslate2 dense T5-base at its best", 1, 1.5),
    *_layer("fp32", "MoE", {1: (2.5, 3.2), 8: (3, 5), 128: (3, 5)}),
    *_layer("int8", "QMoE", _QMOE),
    *_layer("int8 block 32", "QMoE", _QMOE),
    Goal("ceiling fp32", "SwitchMoE fp32, 1 token, share of the bandwidth ceiling", 0.8, 0.95,
         unit="%"),
    Goal("ceiling int8", "SwitchMoE int8, 1 token, share of the bandwidth ceiling", 0.8, 0.95,
         unit="%"),
    Goal("experts", "ms per token, 128 experts against 8, int8", 1.10, 1.03, True),
    Goal("beams fp32", "4 beams against greedy, ms per step, fp32", 2.0, 1.7, True),
    Goal("beams int8", "4 beams against greedy, ms per step, int8", 2.0, 1.7, True),
    Goal("memory", "anonymous memory after load against file size, fp32, base-8", 0.5, 0.25, True,
         unit=""),
    Goal("match int8", "exact match on switch-tiny, int8 against fp32", -0.5, -0.1, unit="points"),
    Goal("match int4", "exact match on switch-tiny, int4 against fp32", -2, -1, unit="points"),
)


def impossible(rows: list[dict]) -> list[str]:
    """Return what is wrong with rows that claim more than the bandwidth ceiling."""
    shares = {goal.key for goal in GOALS if goal.unit == "%"}
    last = {row["goal"]: row["seen"] for row in rows if row["goal"] in shares}
    return [f"{key}: {seen:.1%}" for key, seen in last.items() if seen is not None and seen > 1]


def table(rows: list[dict]) -> str:
    """Return the markdown table: every goal, with the last figure that was recorded for it."""
    found = {row["goal"]: row for row in rows}
    lines = ["| measure | must | goal | seen | verdict | how |", "|---|---|---|---|---|---|"]
    for goal in GOALS:
        row = found.get(goal.key, {"seen": None, "how": ""})
        limits = (goal.shown(goal.must), goal.shown(goal.goal), goal.shown(row["seen"]))
        verdict = goal.verdict(row["seen"])
        lines.append("| " + " | ".join([goal.measure, *limits, verdict, row["how"]]) + " |")
    return "\n".join(lines)
