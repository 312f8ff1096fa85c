"""spiece.model: copied, or rebuilt from the tokenizer.json that transformers 5 saves."""

import json
import random
import shutil

import pytest
import sentencepiece
from small_checkpoint import SIZES
from transformers import T5Tokenizer

from switch_export.config import SwitchConfig
from switch_export.errors import UnsupportedCheckpoint
from switch_export.tokenizer import copy_tokenizer, rebuild

PIECES, LINES = 120, 2000
WORDS = (
    "the quick brown fox jumps over lazy dogs and many other animals eat eleven apples on the "
    "third of march Zoë naïve café ½ ﬁne ＡＢＣ１２３ Straße 東京 ... ---- don't e-mail a/b 1,234.5"
).split()
SPICE = [
    "<extra_id_0>", "<extra_id_99>", "<extra_id_1>.", "</s>", "<pad>", "<unk>", "<extra_id_100>",
    "<", "▁", "\t", "\n", "  ", "\u200b", "\u00a0", "e\u0301", "日本語", "😀",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
]


def configuration(vocab_size: int = 400) -> SwitchConfig:
    return SwitchConfig.from_dict(
        SIZES | {"model_type": "switch_transformers", "vocab_size": vocab_size}
    )


def generated_lines() -> list[str]:
    """Words, specials beside and inside them, white space and Unicode; the first is empty."""
    chance = random.Random(11)
    lines = [""]
    while len(lines) < LINES:
        parts = [chance.choice(WORDS if chance.random() < 0.75 else SPICE)
                 for _ in range(chance.randint(1, 12))]
        lines.append(chance.choice(["", " "]).join(parts) if chance.random() < 0.3
                     else " ".join(parts))
    return lines


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A checkpoint folder with nothing but a trained spiece.model."""
    folder = tmp_path_factory.mktemp("tokenizer")
    chance = random.Random(5)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(
        " ".join(chance.choice(WORDS) + chance.choice(WORDS) for _ in range(8)) for _ in range(800)
    ))
    path = folder / "bare"
    path.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(path / "spiece"), vocab_size=PIECES,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=0.98, minloglevel=2,
    )
    (path / "spiece.vocab").unlink()
    return path


@pytest.fixture(scope="module")
def resaved(bare, tmp_path_factory):
    """What transformers 5 makes of it: tokenizer.json, no spiece.model."""
    path = tmp_path_factory.mktemp("resaved")
    T5Tokenizer.from_pretrained(bare).save_pretrained(path)
    assert not (path / "spiece.model").exists()
    return path


def read_json(path):
    return json.loads((path / "tokenizer.json").read_text())


def test_a_checkpoint_without_tokenizer_gives_none(tmp_path):
    assert copy_tokenizer(tmp_path, tmp_path, configuration()) is None
    assert list(tmp_path.iterdir()) == []


def test_spiece_model_is_copied(bare, tmp_path):
    entry = copy_tokenizer(bare, tmp_path, configuration())
    assert entry["file"] == "spiece.model"
    assert (tmp_path / "spiece.model").read_bytes() == (bare / "spiece.model").read_bytes()


@pytest.mark.parametrize("source", ["bare", "resaved"])
def test_every_special_token_has_the_id_of_t5tokenizer(source, request, tmp_path):
    path = request.getfixturevalue(source)
    special = copy_tokenizer(path, tmp_path, configuration())["special"]
    oracle = T5Tokenizer.from_pretrained(path)
    assert special == {
        text: oracle.convert_tokens_to_ids(text) for text in oracle.all_special_tokens
    }
    assert special["<extra_id_0>"] == PIECES + 99


def test_the_rebuilt_model_has_the_original_pieces(bare, resaved):
    original = sentencepiece.SentencePieceProcessor(model_file=str(bare / "spiece.model"))
    rebuilt = sentencepiece.SentencePieceProcessor(model_proto=rebuild(read_json(resaved)))
    for processor in (original, rebuilt):
        assert processor.get_piece_size() == PIECES
    for i in range(PIECES):
        assert rebuilt.id_to_piece(i) == original.id_to_piece(i)
        assert rebuilt.get_score(i) == original.get_score(i)
        assert rebuilt.is_control(i) == original.is_control(i)
        assert rebuilt.is_unknown(i) == original.is_unknown(i)
    for special in ("pad_id", "eos_id", "unk_id", "bos_id"):
        assert getattr(rebuilt, special)() == getattr(original, special)()


def test_sentencepiece_segments_alike_with_the_rebuilt_model(bare, resaved):
    original = sentencepiece.SentencePieceProcessor(model_file=str(bare / "spiece.model"))
    rebuilt = sentencepiece.SentencePieceProcessor(model_proto=rebuild(read_json(resaved)))
    lines = generated_lines()
    assert rebuilt.encode(lines) == original.encode(lines)


@pytest.mark.parametrize("source", ["bare", "resaved"])
def test_ids_and_text_equal_t5tokenizers(source, request, tmp_path):
    from switch_runtime.tokenizer import Tokenizer

    path = request.getfixturevalue(source)
    entry = copy_tokenizer(path, tmp_path, configuration())
    tokenizer = Tokenizer(tmp_path / entry["file"], entry["special"])
    oracle = T5Tokenizer.from_pretrained(path)
    for line in generated_lines():
        ids = oracle(line).input_ids
        assert tokenizer.encode(line) == ids, repr(line)
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True), repr(line)


def test_fewer_sentinels_are_counted_from_the_settings(bare, tmp_path):
    path = tmp_path / "few"
    shutil.copytree(bare, path)
    (path / "tokenizer_config.json").write_text('{"extra_ids": 3}')
    special = copy_tokenizer(path, tmp_path, configuration())["special"]
    assert special == {
        "<pad>": 0, "</s>": 1, "<unk>": 2,
        "<extra_id_2>": PIECES, "<extra_id_1>": PIECES + 1, "<extra_id_0>": PIECES + 2,
    }


def test_the_added_tokens_of_transformers_4_are_read(bare, tmp_path):
    path = tmp_path / "four"
    shutil.copytree(bare, path)
    added = {"200": {"content": "<sep>", "special": True}}
    (path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    special = copy_tokenizer(path, tmp_path, configuration())["special"]
    assert special["<sep>"] == 200
    assert special["<extra_id_99>"] == PIECES


def refusal(path, tmp_path, **arguments) -> str:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        copy_tokenizer(path, tmp_path, configuration(**arguments))
    return str(caught.value)


def test_more_pieces_than_embeddings_are_refused(bare, tmp_path):
    assert f"has {PIECES} pieces, the model 100 embeddings" in refusal(
        bare, tmp_path, vocab_size=100
    )


def test_a_damaged_spiece_model_is_refused(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"not a model")
    (tmp_path / "to").mkdir()
    assert "spiece.model (11 bytes) is not a SentencePiece model" in refusal(
        tmp_path, tmp_path / "to"
    )


def test_a_damaged_tokenizer_json_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    assert "tokenizer.json cannot be read" in refusal(tmp_path, tmp_path)


def test_every_reason_against_a_rebuild_is_named(resaved, tmp_path):
    described = read_json(resaved)
    described["model"]["byte_fallback"] = True
    described["pre_tokenizer"] = {"type": "ByteLevel"}
    described["normalizer"] = {"type": "Sequence", "normalizers": [
        described["normalizer"], {"type": "Lowercase"},
    ]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    message = refusal(tmp_path, tmp_path)
    assert message.count("\n  - ") == 3
    assert "it normalises text by Lowercase" in message
    assert "move tokenizer.json away" in message


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    assert "its model is 'BPE', expected 'Unigram'" in refusal(tmp_path, tmp_path)


def test_an_added_token_that_is_not_special_is_refused(resaved, tmp_path):
    described = read_json(resaved)
    described["added_tokens"].append({"id": 250, "content": "banana", "special": False})
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    assert "'banana' (id 250)" in refusal(tmp_path, tmp_path)
