"""Byte-level BPE backends, as GPT-2's: from vocab.json and merges.txt, or from a GGUF file's lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from martlet.errors import TokenizerError
from martlet.tokenizers.settings import Settings

Merges = list[tuple[str, str]]


def read_merges(text: str, subject: str) -> Merges:
    """The pairs of a merges.txt; a first line `#version: ...` is left out."""
    lines = [line.rstrip("\r") for line in text.split("\n")]  # tokens may hold other kinds of line breaks
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    return split_merges((line for line in lines if line), subject)


def split_merges(lines: Iterable[str], subject: str) -> Merges:
    """Pairs from lines of two tokens with one space between."""
    lines = list(lines)
    if set(map(str.count, lines, repeat(" "))) == {1}:  # as they mostly are: all are parted at once
        parts = "\0".join(lines).replace(" ", "\0").split("\0")
        if len(parts) == 2 * len(lines) and "" not in parts:
            each = iter(parts)
            return list(zip(each, each, strict=True))
    pairs = [tuple(line.split(" ")) for line in lines]
    if set(map(len, pairs)) - {2} or not all(map(all, pairs)):
        number, wrong = next((i, each) for i, each in enumerate(pairs, 1) if len(each) != 2 or not all(each))
        found = repr(" ".join(wrong))[:80]
        raise TokenizerError(subject, f"merge {number} must be two tokens and a space", found=found)
    return pairs  # type: ignore[return-value]


def make_bpe(vocab: dict[str, int], merges: Merges, subject: str, **options: Any) -> models.BPE:
    """A BPE model, or the TokenizerError that says which merge or id does not fit."""
    if not vocab:
        raise TokenizerError(subject, "needs tokens", found="none")
    if len(set(vocab.values())) != len(vocab):
        seen: dict[int, str] = {}
        for token, number in vocab.items():
            if number in seen:
                raise TokenizerError(
                    subject, f"two tokens have the id {number}", found=f"{seen[number]!r} and {token!r}"
                )
            seen[number] = token
    try:
        return models.BPE(vocab=vocab, merges=merges, **options)
    except Exception as problem:  # the backend raises nothing more precise
        wrong = next((p for p in merges if p[0] not in vocab or p[1] not in vocab or p[0] + p[1] not in vocab), None)
        found = f"the merge {wrong[0]!r} {wrong[1]!r}, of tokens it does not have" if wrong else str(problem)
        raise TokenizerError(subject, "is not a BPE vocabulary", found=found) from problem


def byte_level_backend(vocab: dict[str, int], merges: Merges, settings: Settings) -> tokenizers.Tokenizer:
    """GPT-2's pipeline; Roberta-like classes get their <s> and </s> around each sequence."""
    prefix_space = bool(settings.add_prefix_space)
    backend = tokenizers.Tokenizer(make_bpe(vocab, merges, "vocab.json and merges.txt"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    if settings.family in _ROBERTAS:
        _surround_as_roberta(backend, settings, prefix_space)
    elif settings.family in _DEFAULT_END:
        for name in ("bos_token", "eos_token", "unk_token"):
            if _DEFAULT_END[settings.family] in vocab:
                settings.special_tokens.setdefault(name, _DEFAULT_END[settings.family])
    return backend


_ROBERTAS = {"Roberta", "Bart", "Longformer", "LED", "MVP", "Blenderbot"}
_DEFAULT_END = {"GPT2": "<|endoftext|>", "GPTNeoX": "<|endoftext|>", "CodeGen": "<|endoftext|>"}
_ROBERTA_TOKENS = {
    "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>",
    "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>",
}  # fmt: skip


def _surround_as_roberta(backend: tokenizers.Tokenizer, settings: Settings, prefix_space: bool) -> None:
    for name, token in _ROBERTA_TOKENS.items():
        if backend.token_to_id(token) is not None:
            settings.special_tokens.setdefault(name, token)
    ends = {name: str(settings.special_tokens.get(name, "")) for name in ("sep_token", "cls_token")}
    pairs: list[tuple[str, int]] = []
    for token in ends.values():
        number = backend.token_to_id(token)
        if number is None:
            raise TokenizerError("vocab.json", f"{settings.family} puts {token!r} around text, which it does not have")
        pairs.append((token, number))
    backend.post_processor = processors.RobertaProcessing(
        pairs[0], pairs[1], trim_offsets=True, add_prefix_space=prefix_space
    )


def split_backend(
    vocab: dict[str, int], merges: Merges, patterns: Sequence[str], ignore_merges: bool, subject: str
) -> tokenizers.Tokenizer:
    """Byte-level BPE whose text is first cut by regular expressions, one after the other."""
    backend = tokenizers.Tokenizer(make_bpe(vocab, merges, subject, ignore_merges=ignore_merges))
    cuts = [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in patterns]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, level])
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend
