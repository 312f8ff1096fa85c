"""The runtime's tokenizer gives T5Tokenizer's ids and text."""

import io
import random
import time
from pathlib import Path

import pytest

from switch_runtime.errors import InvalidArgument, InvalidModel
from switch_runtime.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
LINES = 10_000
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCXYZ0123456789",
    ".,;:!?'\"()[]{}<>/\\|@#$%^&*-_=+~`",
    "éèüñßøåçÀÔžłığİﬁﬂ",
    "\u0300\u0301\u0308\u0327\u0323\u20dd\u0483\u05b0\u064b\u093f\u0903\u0e33\u0600\uff9e",
    "①²½ⅷ™℃㎏％Ａｚ０＜＞／ｱｶﾞ…‥№",
    "漢字仮名交じり文日本語中文한국어가각각",
    "привет мир Ωαβγ עברית العربية हिन्दी ไทย",
    "😀👍🏽👨\u200d👩\u200d👧🇫🇷❤\ufe0f©®",
    "\u200b\u200c\u200d\u200e\u2060\ufeff\u00ad\u0000\u0001\u0007\u001b\u001c\u007f\x85",
    " \t\n\r\x0b\x0c\xa0\u1680\u2003\u2028\u2029\u202f\u3000",
    "▁▁▁",
)
SPECIALS = ["</s>", "<pad>", "<unk>", "<extra_id_>", "<extra_id_100>", "＜/s＞", "＜extra_id_7＞"]
SPECIALS += [f"<extra_id_{index}>" for index in (0, 1, 2, 7, 10, 42, 99)]


def generated_line(chance: random.Random) -> str:
    """Return some words, runs, specials and stray characters of many scripts."""
    pieces = []
    for _ in range(chance.choice((0, 1, 2, 3, 8, 20))):
        kind = chance.random()
        if kind < 0.2:
            pieces.append(chance.choice(SPECIALS))
        elif kind < 0.3:
            run = chance.choice(chance.choice(ALPHABETS))
            pieces.append(run * chance.randint(2, 12))
        elif kind < 0.5:
            pieces.append(" " * chance.choice((1, 1, 1, 2, 5)))
        elif kind < 0.7:
            mixed = "".join(ALPHABETS)
            pieces.append("".join(chance.choices(mixed, k=chance.randint(1, 6))))
        else:
            alphabet = chance.choice(ALPHABETS)
            pieces.append("".join(chance.choices(alphabet, k=chance.randint(1, 8))))
    return "".join(pieces)


def training_lines(chance: random.Random) -> list[str]:
    """Return text that gives pieces for words, runs and several scripts."""
    letters = ALPHABETS[0]
    words = ["".join(chance.choices(letters, k=chance.randint(2, 8))) for _ in range(300)]
    ends = (".", "...", "......", "!!", "--", " 1234", " éè", " 漢字", " мир", " ①²", "aaaa")
    lines = [
        " ".join(chance.choices(words, k=10)) + "".join(chance.choices(ends, k=2))
        for _ in range(3000)
    ]
    return [*lines, *"".join(ALPHABETS[:8]).replace("\u0300", "")]


def train(rule: str) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_lines(random.Random(5))),
        model_writer=model,
        model_type="unigram",
        vocab_size=700,
        hard_vocab_limit=False,
        character_coverage=0.998,
        normalization_rule_name=rule,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    return model.getvalue()


def oracle(folder: Path):
    """Return transformers' tokenizer of a folder that holds spiece.model."""
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(str(folder), local_files_only=True)


def special_table(reference) -> dict[str, int]:
    return {text: reference.convert_tokens_to_ids(text) for text in reference.all_special_tokens}


@pytest.fixture(scope="session", params=["nmt_nfkc", "nmt_nfkc_cf", "identity", "switch-tiny"])
def pair(request, tmp_path_factory):
    """Our tokenizer and transformers', of the same spiece.model."""
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "switch-tiny":
        blob = (ROOT / "examples" / "switch-tiny" / "spiece.model").read_bytes()
    else:
        blob = train(request.param)
    (folder / "spiece.model").write_bytes(blob)
    reference = oracle(folder)
    return Tokenizer(folder / "spiece.model", special_table(reference)), reference


@pytest.fixture(scope="session")
def lines() -> list[str]:
    chance = random.Random(20)
    return [generated_line(chance) for _ in range(LINES)]


@pytest.fixture(scope="session")
def nmt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer-nmt")
    (folder / "spiece.model").write_bytes(train("nmt_nfkc"))
    reference = oracle(folder)
    return folder / "spiece.model", special_table(reference), reference


def differences(cases, ours, expected) -> list[str]:
    return [
        f"{case!r}: {a!r}, expected {b!r}"
        for case, a, b in zip(cases, ours, expected, strict=True)
        if a != b
    ]


def test_ids_of_generated_lines_equal_t5_tokenizers(pair, lines):
    tokenizer, reference = pair
    expected = [encoding.ids for encoding in reference.backend_tokenizer.encode_batch(lines)]
    assert reference(lines[:50]).input_ids == expected[:50]
    wrong = differences(lines, [tokenizer.encode(line) for line in lines], expected)
    assert not wrong, f"{len(wrong)} lines differ:\n" + "\n".join(wrong[:10])


def test_decoded_text_of_generated_lines_equals_t5_tokenizers(pair, lines):
    tokenizer, reference = pair
    rows = [encoding.ids for encoding in reference.backend_tokenizer.encode_batch(lines)]
    expected = [reference.decode(row, skip_special_tokens=True) for row in rows]
    wrong = differences(rows, [tokenizer.decode(row) for row in rows], expected)
    assert not wrong, "\n".join(wrong[:10])


def test_decoded_text_of_random_ids_equals_t5_tokenizers(pair):
    tokenizer, reference = pair
    chance = random.Random(3)
    size = len(reference) + 28  # T5's embedding has more rows than its tokenizer has tokens
    rows = [[chance.randrange(size) for _ in range(chance.randrange(9))] for _ in range(3000)]
    expected = [reference.decode(row, skip_special_tokens=True) for row in rows]
    assert not differences(rows, [tokenizer.decode(row) for row in rows], expected)


def test_the_lines_hold_what_the_tests_are_about(pair, lines):
    """A generator that lost its specials or its unknown characters would test nothing."""
    tokenizer, reference = pair
    ids = [set(tokenizer.encode(line)) for line in lines]
    assert sum(reference.convert_tokens_to_ids("<extra_id_0>") in row for row in ids) > 500
    assert sum(2 in row for row in ids) > 500
    assert sum(line == "" for line in lines) > 100
    assert sum("\n" in line or "\t" in line for line in lines) > 500


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("", "  \n\t "),  # nothing but </s>
        ("ab cd", "  ab \t\n cd  "),
        ("ab\r\ncd", "ab cd"),
        ("ａｂ", "ab"),
    ],
)
def test_white_space_and_width_do_not_count(nmt, text, same_as):
    path, special, _ = nmt
    tokenizer = Tokenizer(path, special)
    assert tokenizer.encode(text) == tokenizer.encode(same_as)


def test_empty_text_is_the_end_token_alone(nmt):
    path, special, _ = nmt
    assert Tokenizer(path, special).encode("") == [1]


def test_special_tokens_beyond_the_file_split_the_text(nmt):
    path, special, reference = nmt
    tokenizer = Tokenizer(path, special)
    first = reference.convert_tokens_to_ids("<extra_id_0>")
    assert first == len(reference) - 1
    assert tokenizer.encode("<extra_id_0><extra_id_0>")[:-1] == [first, first]


@pytest.mark.parametrize("part", ["word ", "a", "漢e\u0301"])
def test_a_line_of_a_million_characters_takes_a_moment(nmt, part):
    path, special, reference = nmt
    tokenizer = Tokenizer(path, special)
    start = time.process_time()
    tokenizer.decode(tokenizer.encode(part * (1_000_000 // len(part))))
    assert time.process_time() - start < 10  # about one second on a quiet machine
    shorter = part * 3000
    assert tokenizer.encode(shorter) == reference.backend_tokenizer.encode(shorter).ids


def test_a_lone_surrogate_is_an_invalid_argument(nmt):
    path, special, _ = nmt
    with pytest.raises(InvalidArgument, match="not valid Unicode.*character 2"):
        Tokenizer(path, special).encode("ab\ud800")


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
def test_a_damaged_file_is_an_invalid_model_that_names_it(nmt, tmp_path, damage):
    path, special, _ = nmt
    blob = {"empty": b"", "text": b"not a model", "truncated": path.read_bytes()[:2000]}
    damaged = tmp_path / "spiece.model"
    if damage != "missing":
        damaged.write_bytes(blob[damage])
    with pytest.raises(InvalidModel, match="spiece.model"):
        Tokenizer(damaged, special)
