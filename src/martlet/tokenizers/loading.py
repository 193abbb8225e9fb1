"""Which file of a folder a tokenizer is made from: tokenizer.json as it stands, else what one can be built from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from martlet.errors import JsonError, TokenizerError
from martlet.formats.files import read_json
from martlet.tokenizers.settings import Files, Settings, read_settings
from martlet.tokenizers.tokenizer import Tokenizer

_MAX_BYTES = 1 << 29


def load_tokenizer(files: Files, name: str, keywords: dict[str, Any]) -> Tokenizer:
    """A tokenizer from a snapshot's files.

    tokenizer.json is the truth and is loaded verbatim: the `tokenizer_class` that tokenizer_config.json names never
    rebuilds or overrides it. Without it, in this order: tokenizer.model, vocab.json with merges.txt, vocab.txt.
    """
    whole = files.file("tokenizer.json")
    settings = read_settings(files, keywords, has_tokenizer_json=whole is not None)
    if whole is not None:
        return Tokenizer(backend_from_json(whole), settings, name)
    return Tokenizer(_built_backend(files, settings, name), settings, name)


def _built_backend(files: Files, settings: Settings, name: str) -> tokenizers.Tokenizer:
    model = files.file("tokenizer.model") or files.file("spiece.model") or files.file("sentencepiece.bpe.model")
    if model is not None:
        from martlet.tokenizers.sentencepiece import read_sentencepiece, sentencepiece_backend

        return sentencepiece_backend(read_sentencepiece(_read_bytes(model), model.name), settings)
    vocab, merges = files.file("vocab.json"), files.file("merges.txt")
    if vocab is not None and merges is not None:
        from martlet.tokenizers.bytelevel import byte_level_backend, read_merges

        return byte_level_backend(_vocabulary(vocab), read_merges(_read_text(merges), merges.name), settings)
    words = files.file("vocab.txt")
    if words is not None:
        from martlet.tokenizers.wordpiece import read_words, wordpiece_backend

        return wordpiece_backend(read_words(_read_text(words), words.name), settings)
    raise TokenizerError(
        name or "tokenizer",
        "needs tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt",
        found=", ".join(sorted(files.list())[:12]) or "none of them",
        remedy="Is it a tokenizer's folder, or a .gguf file?",
    )


def backend_from_json(path: Path) -> tokenizers.Tokenizer:
    data = _read_bytes(path)
    try:
        return tokenizers.Tokenizer.from_buffer(data)
    except Exception as problem:  # the backend raises nothing more precise
        reason = _reason(data, path) or " ".join(str(problem).split())[:300]
        raise TokenizerError(str(path), "is not a tokenizer the backend can load", found=reason) from problem


def _reason(data: bytes, path: Path) -> str | None:
    """What is wrong with the JSON itself, which the backend only says as a byte position."""
    try:
        json.loads(data)
    except UnicodeDecodeError as problem:
        return f"a byte that is not UTF-8 at {problem.start}"
    except json.JSONDecodeError as problem:
        ends = problem.pos >= len(problem.doc.rstrip()) or problem.msg.startswith("Unterminated")
        return f"damaged JSON ({'it ends too early' if ends else f'{problem.msg} at line {problem.lineno}'})"
    except RecursionError:
        return "JSON nested too deep"
    return None


def _vocabulary(path: Path) -> dict[str, int]:
    try:
        vocab = read_json(path)
    except JsonError as problem:
        raise TokenizerError(problem.subject, problem.rule, found=problem.found, remedy=problem.remedy) from problem
    wrong = next(((key, value) for key, value in vocab.items() if type(value) is not int or value < 0), None)
    if wrong is not None:
        raise TokenizerError(
            str(path), f"must map tokens to ids of 0 or more, but {wrong[0]!r} has", found=repr(wrong[1])
        )
    return vocab


def _read_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as problem:
        raise TokenizerError(str(path), "cannot be read", found=problem.strerror) from problem
    if len(data) > _MAX_BYTES:
        raise TokenizerError(str(path), f"must not be larger than {_MAX_BYTES} bytes")
    return data


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise TokenizerError(
            str(path), "must be UTF-8", found=f"byte 0x{problem.object[problem.start]:02x}"
        ) from problem
