"""CTranslate2 on a dense T5-base with random weights: per token it reads what base-8 reads.

    python -m switch_bench.ctranslate convert FOLDER          # what `engines` starts, and
    python -m switch_bench.ctranslate try FOLDER THREADS      # for each backend, `trials`

CTranslate2 chooses its matrix library when it is imported (CT2_USE_MKL), and int16 exists only
with MKL, so settings are tried in processes of their own first; the timed run takes the best one.
Only an encoder: CTranslate2 loads the same encoder as an encoder model (`ctranslate2.Encoder`).
"""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from switch_bench import machine
from switch_bench.cells import Cell, Rows, sources
from switch_bench.engines import Absent, loading
from switch_bench.phases import seconds_of

BACKENDS = ("0", "1")  # values of CT2_USE_MKL
_TRIALS = 3
#: What the settings are tried on: a greedy decoding, an encoding.
DECODE, ENCODE = Cell(1, 1, 32, 17), Cell(1, 1, 512, 1)
_NAME = "t5-base-ct2"
_SPECIAL = ("<pad>", "</s>", "<unk>")


@dataclass(frozen=True)
class Setting:
    """How CTranslate2 runs: `mkl` is CT2_USE_MKL."""

    mkl: str
    compute: str
    threads: int


def _tokens(vocabulary: int) -> list[str]:
    return [*_SPECIAL, *(f"t{i}" for i in range(len(_SPECIAL), vocabulary))]


def converted(folder: Path, **sizes: int) -> Path:
    """Make (once) the model in `folder`: `full` and its `encoder`. Sizes are T5Config's."""
    import torch
    from ctranslate2.converters.transformers import T5Loader
    from ctranslate2.specs.transformer_spec import TransformerEncoderModelSpec
    from transformers import T5Config, T5ForConditionalGeneration

    path = folder / _NAME
    if path.exists():
        return path
    base = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12, "num_layers": 12}
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**(base | sizes), decoder_start_token_id=0)).eval()
    tokens, loader = _tokens(model.config.vocab_size), T5Loader()
    full = loader.get_model_spec(model)
    loader.set_vocabulary(full, tokens)
    encoder = TransformerEncoderModelSpec(loader.get_model_spec(model).encoder)
    encoder.register_vocabulary(tokens)
    full.config.decoder_start_token = _SPECIAL[0]
    partial = path.with_name(f".{_NAME}.partial")
    for name, spec in (("full", full), ("encoder", encoder)):
        spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = _SPECIAL
        spec.validate()
        spec.optimize(quantization=None)
        (partial / name).mkdir(parents=True, exist_ok=True)
        spec.save(str(partial / name))
    return partial.rename(path)


class CTranslate2:
    """A dense T5-base, with one setting; CT2_USE_MKL must be set before the first of them."""

    def __init__(self, path: Path, setting: Setting, encoder: bool = False):
        try:
            import ctranslate2
        except ImportError as error:
            raise Absent(f"CTranslate2: {error}") from error
        self.precision = setting.compute
        self.name = f"CTranslate2 T5-base {setting.compute}"
        self.setting = setting
        kind = ctranslate2.Encoder if encoder else ctranslate2.Translator
        folder = path / ("encoder" if encoder else "full")
        options = {"compute_type": setting.compute, "intra_threads": setting.threads}
        with loading(self):
            self.model = kind(str(folder), inter_threads=1, **options)
        self.tokens = json.loads((path / "full" / "shared_vocabulary.json").read_text())
        self.vocabulary = len(self.tokens)
        self.disk_mib = machine.disk(folder)

    def decode(self, rows: Rows, cell: Cell, new: int) -> Rows:
        """Decode; other weights than Switch has, so the ids are nobody's reference."""
        results = self.model.translate_batch(
            [[self.tokens[token] for token in row] for row in rows], beam_size=cell.beams,
            min_decoding_length=new, max_decoding_length=new,
        )
        lengths = {len(result.hypotheses[0]) for result in results}
        if lengths != {new}:
            raise ValueError(f"{self.name} decoded {lengths} tokens instead of {new}")
        return []

    def encode(self, rows: Rows) -> None:
        """Run the encoder alone."""
        np.array(self.model.forward_batch(rows).last_hidden_state)


def trials(path: Path, threads: int) -> list[dict]:
    """Try every backend, compute type and thread count; ms of a short decoding and an encoding.

    One that takes more than three times the best so far at its first call is not called again.

    Returns rows {"mkl", "compute", "threads", "decode_ms", "encode_ms"}.
    """
    found = []
    for mkl in BACKENDS:
        fastest = {
            name: min((row[f"{name}_ms"] for row in found), default=float("inf"))
            for name in ("decode", "encode")
        }
        job = json.dumps({"threads": threads, "fastest": fastest})
        found += json.loads(_child({"CT2_USE_MKL": mkl}, "try", str(path), job))
    return found


def _child(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "switch_bench.ctranslate", *arguments],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )
    if done.returncode:
        raise Absent(f"CTranslate2: {''.join(done.stderr.strip().splitlines()[-1:])}")
    return done.stdout


def best(found: list[dict], measure: str) -> list[Setting]:
    """Return the best setting of each compute type within the backend of the fastest of all.

    Args:
        measure: "decode_ms" or "encode_ms".
    """
    backend = min(found, key=lambda row: row[measure])["mkl"]
    settings = {}
    for row in sorted(found, key=lambda row: -row[measure]):
        if row["mkl"] == backend:
            settings[row["compute"]] = Setting(row["mkl"], row["compute"], row["threads"])
    return list(settings.values())


def engines(folder: Path, threads: int, measure: str) -> list[CTranslate2]:
    """Load one engine per compute type; to be called before anything imports ctranslate2.

    Raises Absent where ctranslate2 or what converts for it is not installed.
    """
    path = folder / _NAME
    if not path.exists():
        _child({}, "convert", str(folder))
    found = trials(path, threads)
    settings = best(found, measure)
    os.environ["CT2_USE_MKL"] = settings[0].mkl
    made = [CTranslate2(path, setting, measure == "encode_ms") for setting in settings]
    for engine in made:
        engine.trials = found
    return made


def _try_backend(path: Path, threads: int, fastest: dict[str, float]) -> list[dict]:
    import ctranslate2

    mkl, made = os.environ["CT2_USE_MKL"], []
    for compute in sorted(ctranslate2.get_supported_compute_types("cpu")):
        for count in sorted({1, threads}, reverse=True):
            setting = Setting(mkl, compute, count)
            taken = {}
            for name, cell, encoder in (("decode", DECODE, False), ("encode", ENCODE, True)):
                engine = CTranslate2(path, setting, encoder)
                rows = sources(cell, engine.vocabulary, 0)
                calls = {
                    "decode": lambda e=engine, r=rows, c=cell: e.decode(r, c, c.new),
                    "encode": lambda e=engine, r=rows: e.encode(r),
                }
                taken[f"{name}_ms"] = first = 1e3 * seconds_of(calls[name])
                if first <= 3 * fastest[name]:
                    seconds = [seconds_of(calls[name]) for _ in range(_TRIALS)]
                    taken[f"{name}_ms"] = 1e3 * statistics.median(seconds)
                fastest[name] = min(fastest[name], taken[f"{name}_ms"])
            made.append({"mkl": mkl, "compute": compute, "threads": count} | taken)
    return made


if __name__ == "__main__":
    _, task, where, *rest = sys.argv
    if task == "convert":
        converted(Path(where))
    else:
        print(json.dumps(_try_backend(Path(where), **json.loads(rest[0]))))
