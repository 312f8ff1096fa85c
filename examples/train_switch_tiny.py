"""Train the demo model examples/switch-tiny, or measure it again.

    python examples/train_switch_tiny.py               # trains, then measures and writes the card
    python examples/train_switch_tiny.py --evaluate    # only measures what is in the folder

Everything is seeded; two machines still differ in the rounding of their matrix products.
"""

import argparse
import io
import itertools
import json
import math
import random
import string
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import sentencepiece
import torch
from inverse_text_normalisation import DOMAINS, Case, held_out_cases, training_cases
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from torch.nn.functional import one_hot
from transformers import SwitchTransformersConfig, T5Tokenizer
from transformers import SwitchTransformersForConditionalGeneration as Model

FOLDER = Path(__file__).parent / "switch-tiny"
SEED = 20261124
HELD_OUT_PER_DOMAIN = 500
SENTINELS = 100
TRAINED_PIECES = 200
WORD_SCORE = -5.0  # far above the sum of the scores of a word's letters
BALANCE_WEIGHT = 0.1
POOL_BATCHES = 32  # batches that are drawn together and sorted by length, against padding
CARD_BEGIN, CARD_END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"


def train_pieces() -> bytes:
    """Train a Unigram vocabulary and add the task's words that it would split.

    The trainer never proposes a piece that occurs in one word only, such as "january".
    """
    cases = list(itertools.islice(training_cases(SEED), 40_000))
    words = sorted({word for case in cases for word in case.text.split() if "-" not in word})
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for case in cases for text in (case.text, case.expected)),
        model_writer=proto,
        model_type="unigram",
        vocab_size=TRAINED_PIECES,
        normalization_rule_name="nmt_nfkc",
        character_coverage=1.0,
        # Text outside the task becomes letters instead of unknowns.
        required_chars=string.ascii_letters + string.digits + string.punctuation + "€£",
        split_digits=True,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    model = ModelProto.FromString(proto.getvalue())
    known = {piece.piece for piece in model.pieces}
    for piece in ("▁" + word for word in words):
        if piece not in known:
            model.pieces.add(piece=piece, score=WORD_SCORE)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()


def write_tokenizer(folder: Path) -> None:
    """Write spiece.model and the settings that T5Tokenizer reads beside it."""
    (folder / "spiece.model").write_bytes(train_pieces())
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": SENTINELS, "model_max_length": 512}
    write_json(folder / "tokenizer_config.json", settings | special)


def write_json(path: Path, value: object) -> None:
    """Write indented JSON that ends with a newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def new_model(pieces: int) -> Model:
    """Build the untrained model: 4 + 4 layers, every other one sparse with 4 experts."""
    config = SwitchTransformersConfig(
        vocab_size=math.ceil((pieces + SENTINELS) / 64) * 64,
        d_model=128, d_kv=32, d_ff=256, num_heads=4,
        num_layers=4, num_sparse_encoder_layers=2,
        num_decoder_layers=4, num_sparse_decoder_layers=2, num_experts=4, expert_capacity=64,
        router_jitter_noise=0.01, dropout_rate=0.0, dense_act_fn="relu",
        tie_word_embeddings=True, decoder_start_token_id=0,
    )  # fmt: skip
    model = Model(config)
    model.generation_config.max_new_tokens = 24
    return model


class RouterTap:
    """Keep the router scores of every sparse layer of the latest forward pass."""

    def __init__(self, model: Model) -> None:
        self.logits: dict[str, torch.Tensor] = {}
        for name, module in model.named_modules():
            if name.endswith("mlp.router"):
                stack, _, block = name.split(".")[:3]
                module.register_forward_hook(partial(self._keep, f"{stack} block {block}"))

    def _keep(self, layer: str, _module, _inputs, output) -> None:
        self.logits[layer] = output[2]                               # [B, T, E]

    def of_real_tokens(self, batch: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each sparse layer's name and its scores [tokens, experts], without pads."""
        real = {"encoder": batch["attention_mask"].bool(), "decoder": batch["labels"] != -100}
        for layer, logits in self.logits.items():
            yield layer, logits[real[layer.split()[0]]]              # [T, E]


def balance_loss(logits: torch.Tensor) -> torch.Tensor:
    """Switch Transformers' balance loss of one layer: 1 when all experts get equal shares.

    Args:
        logits: router scores of the real tokens, [tokens, experts].
    """
    probs = logits.softmax(-1)                                       # [T, E]
    experts = logits.shape[-1]
    share = one_hot(probs.argmax(-1), experts).float().mean(0)       # [E]
    return experts * (share * probs.mean(0)).sum()


def to_batch(sources: list[list[int]], targets: list[list[int]]) -> dict[str, torch.Tensor]:
    """Pad on the right; labels carry -100 there, as transformers' loss expects."""
    def pad(rows: list[list[int]], value: int) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [value] * (width - len(row)) for row in rows])

    mask = pad([[1] * len(row) for row in sources], 0)
    return {"input_ids": pad(sources, 0), "attention_mask": mask, "labels": pad(targets, -100)}


def batches(cases: Iterable[Case], pieces: sentencepiece.SentencePieceProcessor,
            size: int) -> Iterator[dict[str, torch.Tensor]]:  # fmt: skip
    """Cut a stream of cases into batches of similar source length, in random order."""
    rng, cases = random.Random(SEED), iter(cases)
    while pool := list(itertools.islice(cases, size * POOL_BATCHES)):
        sources = pieces.encode([case.text for case in pool], add_eos=True)
        targets = pieces.encode([case.expected for case in pool], add_eos=True)
        # Not by length alone: a batch of one domain would be a biased step.
        lengths = [len(source) + rng.uniform(0, 8) for source in sources]
        order = sorted(range(len(pool)), key=lengths.__getitem__)
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield to_batch([sources[i] for i in chunk], [targets[i] for i in chunk])


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up for 300 steps, then follow half a cosine down to nothing."""
    return peak * min(1.0, (step + 1) / 300) * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Train from scratch into the folder; return what the card says about the run."""
    torch.manual_seed(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    model = new_model(pieces.vocab_size()).train()
    tap = RouterTap(model)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    stream = batches(training_cases(SEED), pieces, options.batch)
    started = time.monotonic()
    for step, batch in enumerate(itertools.islice(stream, options.steps)):
        optimizer.param_groups[0]["lr"] = learning_rate(step, options.steps, options.learning_rate)
        loss = model(**batch).loss
        balance = torch.stack([balance_loss(scores) for _, scores in tap.of_real_tokens(batch)])
        (loss + BALANCE_WEIGHT * balance.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}  loss {loss.item():.4f}  balance {balance.mean().item():.3f}  "
                  f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    model.save_pretrained(folder)
    return {"seed": SEED, "steps": options.steps, "batch": options.batch,
            "minutes": round((time.monotonic() - started) / 60, 1),
            "threads": torch.get_num_threads()}  # fmt: skip


@torch.inference_mode()
def decode(model: Model, tokenizer: T5Tokenizer, texts: list[str], beams: int) -> list[str]:
    """Decode texts with transformers, 200 at a time, in the order given."""
    outputs = []
    for start in range(0, len(texts), 200):
        inputs = tokenizer(texts[start : start + 200], return_tensors="pt", padding=True)
        ids = model.generate(**inputs, num_beams=beams, do_sample=False)
        outputs += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return outputs


def accuracy(cases: list[Case], outputs: list[str]) -> dict[str, float]:
    """Give the percentage of exact matches per domain and over all."""
    right: dict[str, list[bool]] = {name: [] for name in ("all", *DOMAINS)}
    for case, output in zip(cases, outputs, strict=True):
        right["all"].append(output == case.expected)
        right[case.domain].append(output == case.expected)
    return {name: round(100 * sum(hits) / len(hits), 2) for name, hits in right.items()}


@torch.inference_mode()
def routing(model: Model, tokenizer: T5Tokenizer, cases: list[Case]) -> dict[str, list[float]]:
    """Give the percentage of tokens that each expert of each sparse layer chooses.

    The decoder is fed the expected outputs, so that every model is measured on the same tokens.
    """
    tap, counts = RouterTap(model), {}
    for start in range(0, len(cases), 200):
        part = cases[start : start + 200]
        batch = to_batch([tokenizer(case.text).input_ids for case in part],
                         [tokenizer(case.expected).input_ids for case in part])  # fmt: skip
        model(**batch)
        for layer, scores in tap.of_real_tokens(batch):
            chosen = torch.bincount(scores.argmax(-1), minlength=scores.shape[-1])
            counts[layer] = counts.get(layer, 0) + chosen            # [E]
    return {layer: (100 * n / n.sum()).double().round(decimals=1).tolist()
            for layer, n in counts.items()}  # fmt: skip


def evaluate(folder: Path, training: dict[str, float]) -> dict[str, object]:
    """Measure accuracy and routing on the held-out cases."""
    tokenizer = T5Tokenizer.from_pretrained(folder)
    model = Model.from_pretrained(folder, dtype=torch.float32).eval()
    lines = (folder / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [Case(**json.loads(line)) for line in lines]
    texts = [case.text for case in cases]
    shares = {name: routing(model, tokenizer, [c for c in cases if name in ("all", c.domain)])
              for name in ("all", *DOMAINS)}  # fmt: skip
    matches = {"greedy": accuracy(cases, decode(model, tokenizer, texts, beams=1)),
               "4 beams": accuracy(cases, decode(model, tokenizer, texts, beams=4))}  # fmt: skip
    size = sum(weights.numel() for weights in model.parameters())
    return {"training": training, "parameters": size, "exact_match": matches, "routing": shares}


def table(head: list[str], rows: Iterable[list[object]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def card_section(result: dict) -> str:
    """Format the measured part of the model card."""
    training, names = result["training"], ["all", *DOMAINS]
    matches = [[how, *row.values()] for how, row in result["exact_match"].items()]
    layers = result["routing"]["all"]
    shares = [[layer, name, *result["routing"][name][layer]] for layer in layers for name in names]
    experts = len(shares[0]) - 2
    return "\n\n".join((
        f"{result['parameters']:,} parameters. Trained with seed {training['seed']}: "
        f"{training['steps']} steps of {training['batch']} cases, {training['minutes']} minutes on "
        f"{training['threads']} thread(s) of a shared 2-core CPU machine.",
        "Exact match on the 2,000 held-out cases, %:",
        table(["decoding", *names], matches),
        "Tokens that choose each expert, % (at these lengths none is dropped):",
        table(["sparse layer", "domain", *(f"expert {i}" for i in range(experts))], shares),
    ))  # fmt: skip


def write_results(folder: Path, result: dict) -> None:
    """Write evaluation.json and the part of the card between the markers."""
    write_json(folder / "evaluation.json", result)
    card = folder / "README.md"
    before, rest = card.read_text(encoding="utf-8").split(CARD_BEGIN)
    text = f"{before}{CARD_BEGIN}\n{card_section(result)}\n{CARD_END}{rest.split(CARD_END)[1]}"
    card.write_text(text, encoding="utf-8")
    print(card_section(result), folder, sep="\n")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--evaluate", action="store_true", help="measure the folder, do not train")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.evaluate:
        training = json.loads((options.folder / "evaluation.json").read_text())["training"]
    else:
        training = train(options.folder, options)
        cases = held_out_cases(SEED + 1, HELD_OUT_PER_DOMAIN)
        lines = [json.dumps(vars(case), ensure_ascii=False) + "\n" for case in cases]
        (options.folder / "held_out.jsonl").write_text("".join(lines), encoding="utf-8")
    write_results(options.folder, evaluate(options.folder, training))


if __name__ == "__main__":
    main()
