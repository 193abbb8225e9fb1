"""What can be known of a model from its headers: one dict of plain values. Reads no weight, imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet import arch as arch_
from martlet.checkpoint import INDEX, SINGLE, Checkpoint
from martlet.engine import KV_DTYPES, find_sizes
from martlet.errors import HubError, JsonError, MissingDependencyError, TokenizerError, UnsupportedError
from martlet.formats.files import read_json
from martlet.formats.tensors import num_elements

if TYPE_CHECKING:
    from martlet.arch import Arch
    from martlet.formats.tensors import TensorSource
    from martlet.generation.config import GenerationConfig

WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}  # a weight; blocks' scales come on top
CACHE_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 2.0, "int4": 2.0}  # a key's or value's number
GGUF_KINDS = {"gpt2": "BPE", "llama": "BPE", "bert": "WordPiece"}  # "llama" is SentencePiece's BPE
UNBOUNDED = 10**15  # tokens; Hugging Face's word for no limit is 1e30
MAGIC = {b"GGUF": "gguf", b"PK\x03\x04": "torch pickle"}


def model_facts(checkpoint: Checkpoint, files: Mapping[str, Any]) -> dict[str, Any]:
    """Everything `martlet inspect` says, by section. `files` are the keywords that found the checkpoint's files.

    FormatError and WeightsError for files that are damaged.
    """
    arch, config = checkpoint.arch, checkpoint.config
    return {
        "model": checkpoint.snapshot.name,
        "revision": checkpoint.snapshot.revision,
        "family": config.family.model_type,
        "classes": config.get("architectures") or [],
        "parameters": arch_.num_parameters(arch, arch_.tensors(arch, config.parts)),
        "architecture": arch_facts(arch),
        "files": file_facts(checkpoint),
        "weights": weight_facts(checkpoint),
        "tokenizer": tokenizer_facts(checkpoint, files),
        "generation": generation_facts(checkpoint),
        "memory": memory_facts(arch),
        "engine": engine_facts(checkpoint),
        "kv_cache": kv_cache_facts(arch),
        "remote_code": remote_code(checkpoint),
    }


def arch_facts(arch: Arch) -> dict[str, Any]:
    """Every field of the `Arch`; layers that are alike together, as `{"layers": [0, 1], "rope": ..., "window": 0}`."""
    kept = [field.name for field in dataclasses.fields(arch) if field.name not in ("layers", "dropout")]
    facts: dict[str, Any] = {name: getattr(arch, name) for name in kept} | {"dropout": dataclasses.asdict(arch.dropout)}
    kinds: dict[arch_.Layer, list[int]] = {}
    for place, layer in enumerate(arch.layers):
        kinds.setdefault(layer, []).append(place)
    facts["num_layers"] = arch.num_layers
    facts["layers"] = [{"layers": places, **dataclasses.asdict(layer)} for layer, places in kinds.items()]
    return facts


def file_facts(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The model's files that are on this machine: name, size in bytes, format by content."""
    snapshot = checkpoint.snapshot
    if snapshot.single is not None and checkpoint.gguf is not None:
        paths = list(checkpoint.gguf.paths)
    elif snapshot.root is not None:
        folder = snapshot.root / snapshot.subfolder
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    else:
        cached = snapshot.require("config.json").parent  # where the Hub's cache keeps this revision
        paths = sorted(path for path in cached.iterdir() if path.is_file())
    return [{"name": path.name, "bytes": path.stat().st_size, "format": _format(path)} for path in paths]


def weight_facts(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The tensors by type, after their names and shapes were checked against the `Arch`. None without files here."""
    source = open_weights(checkpoint)
    if source is None:
        return None
    with source:
        checkpoint.locate(source, checkpoint.config.parts)
        kinds: dict[str, dict[str, int]] = {}
        for info in map(source.info, source.names()):
            kind = kinds.setdefault(info.dtype, {"tensors": 0, "parameters": 0, "bytes": 0})
            kind["tensors"] += 1
            kind["parameters"] += num_elements(info.shape)
            kind["bytes"] += info.num_bytes
        return {
            "format": _format(source.paths[0]),
            "files": [path.name for path in source.paths],
            "tensors": len(source),
            "bytes": sum(kind["bytes"] for kind in kinds.values()),
            "dtypes": dict(sorted(kinds.items(), key=lambda kind: -kind[1]["bytes"])),
        }


def open_weights(checkpoint: Checkpoint) -> TensorSource | None:
    """The weights' headers if the files are here. Nothing is downloaded for it."""
    snapshot = checkpoint.snapshot
    if snapshot.remote is None:
        names = (*SINGLE.values(), *INDEX.values())
        is_here = checkpoint.gguf is not None or any(snapshot.file(name) is not None for name in names)
        return checkpoint.open_weights() if is_here else None
    here = dataclasses.replace(snapshot.remote, local_only=True, force=False)
    try:
        return dataclasses.replace(checkpoint, snapshot=dataclasses.replace(snapshot, remote=here)).open_weights()
    except HubError:
        return None


def tokenizer_facts(checkpoint: Checkpoint, files: Mapping[str, Any]) -> dict[str, Any]:
    """Kind, sizes and special tokens; for a model without a tokenizer, `{"problem": why}`."""
    try:
        if checkpoint.gguf is not None and ("gguf_file" in files or checkpoint.snapshot.file("tokenizer.json") is None):
            return gguf_tokenizer_facts(checkpoint.snapshot.name, checkpoint.gguf.metadata)
        from martlet.tokenizers.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_snapshot(checkpoint.snapshot)
    except (TokenizerError, HubError) as error:
        return {"problem": str(error)}
    special = {
        name: {"token": token, "id": tokenizer.convert_tokens_to_ids(token)}
        for name, token in tokenizer.special_tokens_map.items()
    }
    names = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json")
    longest = tokenizer.model_max_length
    return {
        "kind": type(tokenizer.backend_tokenizer.model).__name__,
        "source": next((name for name in names if checkpoint.snapshot.file(name) is not None), "vocab.txt"),
        "vocabulary": len(tokenizer),
        "special_tokens": special,
        "adds_bos": tokenizer.add_bos_token,
        "adds_eos": tokenizer.add_eos_token,
        "chat_template": tokenizer.chat_template is not None,
        "max_length": longest if longest < UNBOUNDED else None,
    }


def gguf_tokenizer_facts(name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer_facts` of a GGUF file. The tokenizer is not made: finding merges from scores can take seconds."""
    from martlet.tokenizers.gguf import settings_from_gguf
    from martlet.tokenizers.settings import SPECIAL_NAMES

    kind, tokens, settings = settings_from_gguf(metadata, name, {})
    named = {word: str(settings.special_tokens[word]) for word in SPECIAL_NAMES if word in settings.special_tokens}
    return {
        "kind": GGUF_KINDS[kind],
        "source": f"GGUF metadata ({kind})",
        "vocabulary": len(tokens),
        "special_tokens": {word: {"token": token, "id": tokens.index(token)} for word, token in named.items()},
        "adds_bos": bool(settings.add_bos_token),
        "adds_eos": bool(settings.add_eos_token),
        "chat_template": settings.chat_template is not None,
        "max_length": None,
    }


def generation_facts(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Each generation default that the model's files set, and which file set it."""
    from martlet.cli.options import described

    return described(generation_config(checkpoint))


def generation_config(checkpoint: Checkpoint) -> GenerationConfig:
    """The defaults that `generate` would start from."""
    from martlet.cli.options import from_file
    from martlet.generation.config import CONFIG_NAME, GenerationConfig

    found = checkpoint.snapshot.file(CONFIG_NAME) if checkpoint.gguf is None else None
    if found is not None:
        return GenerationConfig.from_file(found)
    return from_file(
        GenerationConfig.from_model_config(checkpoint.config.to_dict()), is_gguf=checkpoint.gguf is not None
    )


def memory_facts(arch: Arch) -> dict[str, Any]:
    """Bytes of the weights at each dtype, and of keys and values for 1,000 tokens and for a full context."""
    context = arch.max_position_embeddings
    return {
        dtype: {
            "weights": arch_.weight_bytes(arch, size),
            "per_1000_tokens": arch_.cache_bytes(arch, 1000, CACHE_BYTES[dtype]),
            "full_context": arch_.cache_bytes(arch, context, CACHE_BYTES[dtype]),
        }
        for dtype, size in WEIGHT_BYTES.items()
    }


def engine_facts(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Bytes of the weights on the native engine as they are stored: `packed` matrices, a second copy beside a torch
    model's, and `tables`, which no copy is made of; or `{"problem": why}`. None without files here."""
    source = open_weights(checkpoint)
    if source is None:
        return None
    with source:
        pieces = checkpoint.locate(source, checkpoint.config.parts)
        if not checkpoint.arch.tied and arch_.HEAD not in pieces:
            return {"problem": "the checkpoint has no language model head"}
        try:
            return dataclasses.asdict(find_sizes(checkpoint.arch, source, pieces))
        except (UnsupportedError, MissingDependencyError) as error:
            return {"problem": str(error)}


def kv_cache_facts(arch: Arch) -> dict[str, dict[str, int]]:
    """What the native engine needs for keys and values of one row, by `kv_cache_dtype`: bytes of 1,000 tokens and of a
    full context. It keeps every token, also in layers that look at a window."""
    token = 2 * arch.num_layers * arch.key_value_size
    return {
        dtype: {
            "per_1000_tokens": 1000 * token * size,
            "full_context": arch.max_position_embeddings * token * size,
        }
        for dtype, size in KV_DTYPES.items()
    }


def remote_code(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which code of its own the checkpoint names. None of it is ever run."""
    named = _mapped(checkpoint.config.get("auto_map"), "AutoConfig")
    if checkpoint.gguf is None and (path := checkpoint.snapshot.file("tokenizer_config.json")) is not None:
        try:
            named |= _mapped(read_json(path).get("auto_map"), "AutoTokenizer")
        except JsonError:  # told as the tokenizer's problem
            return {"named": named, "run": False}
    return {"named": named, "run": False}


def _mapped(auto_map: Any, kind: str) -> dict[str, Any]:
    """An auto_map as a table; older tokenizers wrote its classes alone."""
    if isinstance(auto_map, dict):
        return dict(auto_map)
    return {kind: auto_map} if auto_map else {}


def _format(path: Path) -> str:
    """A file's format, by its first bytes where they say, else by its name."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[:4] in MAGIC:
        return MAGIC[start[:4]]
    if len(start) == 9 and start[8:] == b"{" and path.suffix == ".safetensors":
        return "safetensors"
    return path.suffix.removeprefix(".") or "text"
