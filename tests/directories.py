"""Model directories changed by hand: with a tokenizer, damaged, of another format."""

import hashlib
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path


def copy_directory(source: Path, output: Path, change: Callable[[dict], None] | None = None):
    """Copy a model directory and let `change` edit its switch.json; return `output`."""
    shutil.copytree(source, output)
    if change is not None:
        path = output / "switch.json"
        description = json.loads(path.read_text())
        change(description)
        path.write_text(json.dumps(description))
    return output


def with_tokenizer(source: Path, output: Path) -> Path:
    """Copy a model directory that has no tokenizer and give it one of its vocabulary's size."""
    import sentencepiece

    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefgh", k=4)) for _ in range(60)]
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(chance.choices(words, k=8)) for _ in range(500)]),
        model_writer=trained,
        model_type="unigram",
        vocab_size=90,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    blob = trained.getvalue()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=blob).get_piece_size()
    special = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    special |= {f"<extra_id_{index}>": pieces + 9 - index for index in range(10)}

    def add(description: dict) -> None:
        assert pieces + 10 <= description["model"]["vocab_size"]
        description["tokenizer"] = {"file": "spiece.model", "special": special}
        digest = hashlib.sha256(blob).hexdigest()
        description["files"]["spiece.model"] = {"size": len(blob), "sha256": digest}

    copy_directory(source, output, add)
    (output / "spiece.model").write_bytes(blob)
    return output
