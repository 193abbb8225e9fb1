"""`martlet inspect MODEL`: what a model is and needs, as tables or as JSON. The facts are facts.py's."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from martlet.cli import options
from martlet.cli.loading import open_files
from martlet.cli.tables import bytes_text, count_text, table

EXAMPLES = """\
examples:
  martlet inspect ./model.gguf
  martlet inspect Qwen/Qwen2.5-0.5B-Instruct --json
"""
# What a reader asks of an architecture first; --json has every field.
SIZES = {
    "num_layers": "layers",
    "hidden_size": "hidden size",
    "intermediate_size": "feed-forward size",
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key-value heads",
    "head_dim": "head size",
    "vocab_size": "vocabulary",
    "max_position_embeddings": "context, tokens",
}
CHOICES = {"norm": "norm", "placement": "norm placement", "activation": "activation", "qk_norm": "query-key norm"}


def build(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "martlet inspect MODEL [options]"
    parser.epilog = f"Reads headers only: no weights, no download of weights, no code of the model's.\n\n{EXAMPLES}"
    options.add_model_options(parser)
    parser.add_argument_group("output").add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Prints the facts, and returns 0."""
    from martlet.cli.facts import model_facts

    facts = model_facts(open_files(arguments), options.hub_options(arguments))
    if arguments.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        print("\n\n".join(f"{title}\n{body}" for title, body in sections(facts)))
    return 0


def sections(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Title and body of each part of what is shown."""
    revision = f"  ({facts['revision'][:12]})" if facts["revision"] else ""
    about = [("family", facts["family"]), ("parameters", count_text(facts["parameters"]))]
    if facts["classes"]:
        about.insert(1, ("class", ", ".join(facts["classes"])))
    yield f"{facts['model']}{revision}", table(about)
    yield "Architecture", table(list(_architecture(facts["architecture"])))
    files = [(file["name"], bytes_text(file["bytes"]), file["format"]) for file in facts["files"]]
    yield "Files", table(files, right=(1,)) if files else "  none on this machine"
    yield "Weights", _weights(facts["weights"])
    yield "Tokenizer", table(list(_tokenizer(facts["tokenizer"])))
    yield "Generation defaults", _generation(facts["generation"])
    context = facts["architecture"]["max_position_embeddings"]
    yield "Memory", _memory(facts["memory"], context)
    if facts["engine"] is not None:
        yield "Weights on the native engine, as they are stored", _engine(facts["engine"])
    yield "Keys and values on the native engine, by kv_cache_dtype", _kv_cache(facts["kv_cache"], context)
    named = facts["remote_code"]["named"]
    code = "\n".join(f"  {name}: {place}" for name, place in named.items())
    yield "Code of its own", f"{code}\n  named by the checkpoint; none of it is run" if named else "  none"


def _architecture(arch: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field, name in SIZES.items():
        yield name, f"{arch[field]:,}"
    for field, name in CHOICES.items():
        yield name, str(arch[field])
    yield "feed-forward", "gated" if arch["gated"] else "plain"
    yield "output head", "the embedding table" if arch["tied"] else "its own matrix"
    for kind in arch["layers"]:
        places = "all layers" if len(arch["layers"]) == 1 else f"{len(kind['layers'])} layers"
        yield f"positions, {places}", _positions(kind, arch)


def _positions(kind: Mapping[str, Any], arch: Mapping[str, Any]) -> str:
    rope = kind["rope"]
    if rope is None:
        text = f"a learned table of {arch['position_table']:,}" if arch["position_table"] else "none"
    else:
        text = f"rotary, theta {rope['theta']:,.0f}"
        text += f", {rope['fraction']:.0%} of a head" if rope["fraction"] != 1 else ""
        if rope["scaling"] != "none":
            text += f", {rope['scaling']}" + (f" x {rope['factor']:g}" if rope["factor"] != 1 else "")
    return text + (f", window of {kind['window']:,} tokens" if kind["window"] else "")


def _weights(weights: Mapping[str, Any] | None) -> str:
    if weights is None:
        return "  not on this machine"
    rows = [("type", "tensors", "numbers", "size")]
    for dtype, kind in weights["dtypes"].items():
        rows.append((dtype, f"{kind['tensors']:,}", f"{kind['parameters']:,}", bytes_text(kind["bytes"])))
    rows.append(("all", f"{weights['tensors']:,}", "", bytes_text(weights["bytes"])))
    return table(rows, right=(1, 2, 3)) + "\n  every name and shape is as the architecture says"


def _tokenizer(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "problem" in facts:
        yield "problem", facts["problem"]
        return
    yield "kind", facts["kind"]
    yield "from", facts["source"]
    yield "vocabulary", f"{facts['vocabulary']:,}"
    for name, token in facts["special_tokens"].items():
        yield name, f"{token['token']!r} ({token['id']})"
    ends = [name for name in ("bos", "eos") if facts[f"adds_{name}"]]
    yield "adds to a text", ", ".join(ends) or "nothing"
    yield "chat template", "yes" if facts["chat_template"] else "no"
    if facts["max_length"] is not None:
        yield "longest text", f"{facts['max_length']:,} tokens"


def _generation(settings: Mapping[str, Any]) -> str:
    rows = [(name, json.dumps(each["value"]), f"from {each['origin']}") for name, each in settings.items()]
    if not rows:
        return "  the library's: nothing is set by the model"
    return table(rows) + "\n  the others are the library's"


def _memory(memory: Mapping[str, Any], context: int) -> str:
    rows = [["", "weights", "each 1,000 tokens", f"all {context:,} tokens"]]
    for dtype, needed in memory.items():
        sizes = [bytes_text(needed[key]) for key in ("weights", "per_1000_tokens", "full_context")]
        rows.append([dtype, *sizes])
    return table(rows, right=(1, 2, 3))


def _engine(facts: Mapping[str, Any]) -> str:
    if "problem" in facts:
        return f"  none: {facts['problem']}"
    rows = [
        ("matrices, packed", bytes_text(facts["packed"]), "beside a torch model that generates, a second copy"),
        ("embedding tables", bytes_text(facts["tables"]), "no copy: read from the file, or in a torch model's memory"),
    ]
    return table(rows, right=(1,))


def _kv_cache(kv_cache: Mapping[str, Any], context: int) -> str:
    rows = [["", "each 1,000 tokens", f"all {context:,} tokens"]]
    for dtype, needed in kv_cache.items():
        rows.append([dtype, bytes_text(needed["per_1000_tokens"]), bytes_text(needed["full_context"])])
    return (
        table(rows, right=(1, 2))
        + "\n  float32 weights have float32 keys and values, others float16, unless you say otherwise"
    )
