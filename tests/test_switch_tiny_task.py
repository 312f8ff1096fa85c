"""The demo model's task, its split and what the committed weights can do."""

import datetime
import itertools
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import SwitchTransformersForConditionalGeneration, T5Tokenizer

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "switch-tiny"
sys.path.insert(0, str(ROOT / "examples"))

import inverse_text_normalisation as task  # noqa: E402  (examples/ is no package)

HELD_OUT = [
    json.loads(line) for line in (FOLDER / "held_out.jsonl").read_text("utf-8").splitlines()
]

CARDINALS = [
    (0, "zero"),
    (7, "seven"),
    (13, "thirteen"),
    (20, "twenty"),
    (45, "forty five"),
    (100, "one hundred"),
    (101, "one hundred and one"),
    (412, "four hundred and twelve"),
    (1000, "one thousand"),
    (1001, "one thousand and one"),
    (1100, "one thousand one hundred"),
    (20_015, "twenty thousand and fifteen"),
    (315_209, "three hundred and fifteen thousand two hundred and nine"),
    (1_000_000, "one million"),
    (2_000_001, "two million and one"),
    (90_000_800, "ninety million eight hundred"),
]
ORDINALS = [
    (1, "first"), (2, "second"), (3, "third"), (5, "fifth"), (8, "eighth"), (9, "ninth"),
    (12, "twelfth"), (20, "twentieth"), (21, "twenty first"), (30, "thirtieth"),
    (31, "thirty first"),
]  # fmt: skip
# What the generator must say about a value, in at least one of its phrasings.
SENTENCES = [
    ("dates", "2000-02-29", "the twenty ninth of february two thousand"),
    ("dates", "1905-12-25", "december the twenty fifth nineteen oh five"),
    ("times", "00:00", "midnight"),
    ("times", "12:30", "half past noon"),
    ("times", "23:50", "ten to midnight"),
    ("times", "11:45", "a quarter to noon"),
    ("times", "16:50", "ten to five in the afternoon"),
    ("times", "06:05", "six oh five a m"),
    ("times", "07:00", "oh seven hundred hours"),
    ("times", "20:15", "twenty fifteen hours"),
]


@pytest.mark.parametrize(("number", "words"), CARDINALS)
def test_cardinal_is_spelled_as_people_say_it(number, words):
    assert task.cardinal(number) == words


@pytest.mark.parametrize(("number", "words"), ORDINALS)
def test_ordinal_is_spelled_as_people_say_it(number, words):
    assert task.ordinal(number) == words


class FixedRandom(random.Random):
    """A generator of choices whose ranges always give the wanted value."""

    def __init__(self, seed: int, value: int) -> None:
        super().__init__(seed)
        self.value = value

    def randint(self, _low: int, _high: int) -> int:
        return self.value

    def randrange(self, _stop: int) -> int:
        return self.value


@pytest.mark.parametrize(("domain", "expected", "text"), SENTENCES)
def test_generator_says_a_value_in_this_way(domain, expected, text):
    if domain == "dates":
        value = datetime.date.fromisoformat(expected).toordinal()
    else:
        value = int(expected[:2]) * 60 + int(expected[3:])
    cases = [task.DRAW[domain](FixedRandom(seed, value)) for seed in range(400)]
    assert {case.expected for case in cases} == {expected}
    assert text in {case.text for case in cases}


def test_one_sentence_never_has_two_meanings():
    meaning = {case["text"]: case["expected"] for case in HELD_OUT}
    for case in itertools.islice(task.training_cases(1), 20_000):
        assert meaning.setdefault(case.text, case.expected) == case.expected, case.text


def test_written_forms_have_the_shape_of_their_domain():
    shape = {
        "dates": r"\d{4}-\d\d-\d\d",
        "times": r"\d\d:\d\d",
        "amounts": r"[$€£](0|[1-9]\d*)\.\d\d",
        "numbers": r"-?(0|[1-9]\d*)(\.\d+)?",
    }
    for case in HELD_OUT:
        assert re.fullmatch(shape[case["domain"]], case["expected"]), case


def test_training_never_shows_a_held_out_value():
    held_out = {(case["domain"], case["expected"].lstrip("$€£")) for case in HELD_OUT}
    for case in itertools.islice(task.training_cases(2), 20_000):
        assert (case.domain, case.expected.lstrip("$€£")) not in held_out


def test_held_out_file_has_500_distinct_cases_per_domain_and_the_examples():
    assert Counter(case["domain"] for case in HELD_OUT) == dict.fromkeys(task.DOMAINS, 500)
    assert len({case["text"] for case in HELD_OUT}) == 2000
    assert {example.text for example in task.EXAMPLES} <= {case["text"] for case in HELD_OUT}


@pytest.mark.parametrize("domain", task.DOMAINS)
def test_a_fifth_of_each_domains_values_is_held_out(domain):
    first, days = datetime.date(1800, 1, 1).toordinal(), 109_573
    rng = random.Random(3)
    values = {
        "dates": lambda: [datetime.date.fromordinal(first + i).isoformat() for i in range(days)],
        "times": lambda: [f"{i // 60:02}:{i % 60:02}" for i in range(1440)],
        "amounts": lambda: [f"${rng.randrange(10**8) / 100:.2f}" for _ in range(20_000)],
        "numbers": lambda: [str(rng.randrange(10**9)) for _ in range(20_000)],
    }[domain]()
    assert sum(task.is_held_out(domain, value) for value in values) >= 0.2 * len(values)


def test_folder_is_below_12_mb():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 12_000_000


@pytest.fixture(scope="module")
def tokenizer():
    return T5Tokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return SwitchTransformersForConditionalGeneration.from_pretrained(
        FOLDER, dtype=torch.float32
    ).eval()


def test_transformers_and_sentencepiece_give_equal_ids(tokenizer):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "spiece.model"))
    texts = [case[key] for case in HELD_OUT for key in ("text", "expected")]
    for text in [*texts, "Hello, wörld! ½  two  spaces ", "日本 語", ""]:
        assert tokenizer(text).input_ids == pieces.encode(text, add_eos=True), text


def test_sentinels_lie_on_top_of_the_pieces(tokenizer):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "spiece.model"))
    top = pieces.vocab_size() + 99
    assert tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"]) == [top, top - 99]


def generate(model, tokenizer, texts, beams):
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    ids = model.generate(**inputs, num_beams=beams, do_sample=False)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("beams", [1, 4])
def test_examples_decode_exactly(model, tokenizer, beams):
    outputs = generate(model, tokenizer, [example.text for example in task.EXAMPLES], beams)
    assert outputs == [example.expected for example in task.EXAMPLES]


@pytest.fixture(scope="module")
def sample():
    return [case for start in range(0, 2000, 500) for case in HELD_OUT[start : start + 50]]


def test_sample_decodes_to_its_written_form(model, tokenizer, sample):
    outputs = generate(model, tokenizer, [case["text"] for case in sample], beams=1)
    right = [case["expected"] == output for case, output in zip(sample, outputs, strict=True)]
    assert sum(right) >= 0.95 * len(sample)


def test_no_expert_takes_more_than_60_percent_of_a_layer(model, tokenizer, sample):
    source = tokenizer([case["text"] for case in sample], return_tensors="pt", padding=True)
    target = tokenizer([case["expected"] for case in sample], return_tensors="pt", padding=True)
    chosen = {}  # layer: the router's one-hot choices, [batch, tokens, experts]
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: chosen.update({name: out[0]}))
        for name, module in model.named_modules()
        if name.endswith("mlp.router")
    ]
    with torch.inference_mode():
        model(**source, labels=target.input_ids)
    for hook in hooks:
        hook.remove()
    assert len(chosen) == 4
    for layer, choices in chosen.items():
        mask = (source if layer.startswith("encoder") else target).attention_mask
        tokens = choices[mask.bool()].sum(0)                         # [E]
        assert tokens.max() <= 0.6 * tokens.sum(), layer
