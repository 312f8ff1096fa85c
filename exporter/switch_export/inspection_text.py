"""An inspection as text for a terminal."""

from typing import Any

from switch_export.inspection import Count, Inspection
from switch_export.quantize import PRECISIONS

_SIZES = ("d_model", "d_ff", "d_kv", "num_heads", "vocab_size")


def render(found: Inspection) -> str:
    """The text that `switch-export inspect` prints."""
    rows = [
        ("kind", found.kind), ("task", _value(found.task)), ("architecture", found.architecture),
    ]
    rows += _origin(found.origin) + _model(found.model) + _search(found)
    lines = [*_table([row for row in rows if row[1] not in (None, "")])]
    if found.parts:
        total = Count(
            sum(count.tensors for count in found.parts.values()),
            sum(count.parameters for count in found.parts.values()),
            sum(count.bytes for count in found.parts.values()),
        )
        lines += ["", *_table(_counts(found.parts | {"total": total}))]
    if found.types:
        lines += ["", *_table(_counts(found.types))]
    files = found.origin.get("files")
    if isinstance(files, dict) and files:
        lines += ["", *_table([
            (name, size_text(entry["size"])) for name, entry in files.items()
            if isinstance(entry, dict) and isinstance(entry.get("size"), int)
        ])]
    lines += _exports(found)
    if found.repairs:
        lines += ["", "--repair would take from the tensors:"]
        lines += [f"  - {repair}" for repair in found.repairs]
    if found.problems:
        verb = "exported" if found.kind == "checkpoint" else "loaded"
        lines += ["", f"It cannot be {verb} as it is:"]
        lines += [f"  - {problem}" for problem in found.problems]
    elif found.kind == "checkpoint":
        lines += ["", "Nothing found that would refuse an export."]
    return "\n".join(lines)


def size_text(count: int) -> str:
    """A number of bytes for people."""
    for unit, shift in (("GiB", 30), ("MiB", 20)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):,.1f} {unit}"
    return f"{count:,} bytes"


def _origin(origin: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    source = origin.get("source")
    if isinstance(source, dict):
        revision = f" at {source['revision']}" if source.get("revision") else ""
        rows.append(("source", f"{source.get('model')}{revision}"))
        rows.append(("adapter", _value(source.get("adapter"))))
        rows += [("repair", _value(repair)) for repair in _list(source.get("repairs"))]
    rows.append(("target", _value(origin.get("target"))))
    block = origin.get("block")
    suffix = f", blocks of {block}" if block else ""
    if "precision" in origin:
        rows.append(("precision", f"{origin['precision']}{suffix}"))
    if "verification" in origin:
        checked = origin["verification"]
        text = "not verified"
        if isinstance(checked, dict):
            text = f"largest error {checked['error']:.1e} relative ({checked.get('tensor')})" \
                if isinstance(checked.get("error"), int | float) else _value(checked)
        rows.append(("verification", text))
    producer = origin.get("producer")
    if isinstance(producer, dict):
        rows.append(("producer", ", ".join(f"{k} {v}" for k, v in producer.items())))
    return rows


def _model(model: dict[str, Any]) -> list[tuple[str, Any]]:
    if not model:
        return []
    rows: list[tuple[str, Any]] = []
    for stack, count in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
        sparse = _list(model.get(f"sparse_{stack}_layers"))
        text = f"{model.get(count)} {'layer' if model.get(count) == 1 else 'layers'}"
        if model.get(count):
            text += f", sparse: {', '.join(map(str, sparse))}" if sparse else ", none sparse"
        rows.append((stack, text))
    rows.append(("experts", _value(model.get("num_experts"))))
    rows += [(name, f"{model[name]:,}") for name in _SIZES if isinstance(model.get(name), int)]
    gated = ", gated" if model.get("is_gated") else ""
    rows.append(("activation", f"{model.get('activation')}{gated}"))
    if isinstance(model.get("tie_word_embeddings"), bool):
        rows.append(("head", "tied" if model["tie_word_embeddings"] else "of its own"))
    if "router_dtype" in model:
        bias = ", with a bias" if model.get("router_bias") else ""
        rows.append(("router", f"{model['router_dtype']}{bias}"))
    return rows


def _search(found: Inspection) -> list[tuple[str, Any]]:
    rows = []
    if found.capacity:
        policy = found.capacity.get("policy")
        tokens = f"{found.capacity.get('tokens')} tokens of a row"
        rows.append(("capacity", f"{tokens}, policy {policy}" if policy else tokens))
    if found.tokens:
        rows.append(("tokens", ", ".join(f"{k} {_value(v)}" for k, v in found.tokens.items())))
    if found.model:
        values = [f"{key} {_value(value)}" for key, value in found.generation.items()]
        rows.append(("generation", ", ".join(values) or "transformers' defaults"))
        rows.append(("tokenizer", found.tokenizer or "none: token ids only"))
    return rows


def _exports(found: Inspection) -> list[str]:
    if not found.exports:
        return []
    repair = " with --repair" if found.repairs else ""
    rows = [("precision", "file", "size")]
    for precision, files in found.exports.items():
        rows += [
            (precision, name, size_text(size)) for name, size in files.items() if size is not None
        ]
    rows += [
        (precision, "none", "a weight has an odd number of inputs, two are kept in a byte")
        for precision in PRECISIONS if precision not in found.exports
    ]
    graphs = [name for name, size in next(iter(found.exports.values())).items() if size is None]
    return [
        "", f"An export{repair} (task {found.task}) writes {' and '.join(graphs)}, whose size is "
        "known once they are traced, and:", *_table(rows),
    ]


def _counts(counts: dict[str, Count]) -> list[tuple]:
    return [
        (name, f"{count.tensors:,} tensors", f"{count.parameters:,} parameters",
         size_text(count.bytes))
        for name, count in counts.items()
    ]


def _table(rows: list[tuple]) -> list[str]:
    """Columns, the first of them left-aligned and numbers too: people read names first."""
    if not rows:
        return []
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(f"{cell!s:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _list(value: Any) -> list | tuple:
    """A list of a JSON file that may hold anything."""
    return value if isinstance(value, list | tuple) else []


def _value(value: Any) -> Any:
    """A value of a JSON file in one line."""
    if isinstance(value, list):
        shown = ", ".join(str(_value(entry)) for entry in value[:8])
        return f"[{shown}{', ...' if len(value) > 8 else ''}]"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(entry)}" for key, entry in value.items())
    return str(value).lower() if isinstance(value, bool) else value
