"""Decode a handful of sentences with an exported switch-tiny, greedy and with 4 beams.

    python examples/demo.py build/demo/switch-tiny-onnx

Exits 1 if a decoding is not the written form that the sentence stands for.
"""

import json
import sys
import time
from pathlib import Path

import switch_runtime

CASES = Path(__file__).parent / "switch-tiny" / "held_out.jsonl"
PER_DOMAIN = 2  # sentences of values that training never showed; the first one is in the README
REPEATS = 5


def sentences() -> list[tuple[str, str]]:
    """Return (words, written form) of the first cases of every domain."""
    domains: dict[str, list[tuple[str, str]]] = {}
    for line in CASES.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        domains.setdefault(case["domain"], []).append((case["text"], case["expected"]))
    return [pair for pairs in domains.values() for pair in pairs[:PER_DOMAIN]]


def decode(model, cases: list[tuple[str, str]], num_beams: int) -> int:
    """Print one line per sentence and the speed; return how many were wrong."""
    texts = [text for text, _ in cases]
    results = model.generate(texts, num_beams=num_beams, max_new_tokens=32)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        model.generate(texts, num_beams=num_beams, max_new_tokens=32)
        seconds.append(time.perf_counter() - started)
    median = sorted(seconds)[REPEATS // 2]
    tokens = sum(len(result.token_ids) for result in results)

    print(f"\n{'greedy' if num_beams == 1 else f'{num_beams} beams'}:")
    wrong = 0
    for (text, expected), result in zip(cases, results, strict=True):
        right = result.text == expected
        wrong += not right
        print(f"  {text:<58} {result.text}" + ("" if right else f"   (expected {expected})"))
    print(
        f"  {len(texts)} sentences, {tokens} tokens in {median * 1e3:.1f} ms "
        f"(median of {REPEATS}): {tokens / median:,.0f} tokens/s"
    )
    return wrong


def main() -> int:
    model = switch_runtime.load(sys.argv[1])
    cases = sentences()
    wrong = decode(model, cases, num_beams=1) + decode(model, cases, num_beams=4)
    if wrong:
        print(f"\n{wrong} decodings are not what the sentence stands for", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
