"""Tokenizers from the `tokenizer.*` keys of a GGUF file. Reading the file itself is `martlet.formats.gguf`.

The keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken

from martlet.errors import TokenizerError
from martlet.formats.gguf import Metadata
from martlet.tokenizers.bytelevel import split_backend, split_merges
from martlet.tokenizers.pretokenizers import PreTokenizer, find_pre_tokenizer
from martlet.tokenizers.settings import Settings, check_keywords, settings_from
from martlet.tokenizers.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_ID_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # the format's own spelling
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
# What llama.cpp takes where a file does not say.
_DEFAULT_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos_token": 1, "eos_token": 2, "unk_token": 0},
    "bert": {"unk_token": 100, "sep_token": 102, "pad_token": 0, "cls_token": 101, "mask_token": 103},
}


def tokenizer_from_gguf(metadata: Mapping[str, Any], name: str, keywords: dict[str, Any]) -> Tokenizer:
    """A tokenizer from a GGUF file's metadata; TokenizerError for what is missing, of a wrong type or unknown."""
    check_keywords(keywords)
    subject = name or "GGUF tokenizer"
    kind, tokens, settings = settings_from_gguf(metadata, name, keywords)
    types = _array(metadata, "token_type", len(tokens), subject)
    backend = _BUILDERS[kind](metadata, tokens, types, settings, subject)
    _add_marked_tokens(backend, tokens, types)
    return Tokenizer(backend, settings, name)


def settings_from_gguf(
    metadata: Mapping[str, Any], name: str, keywords: Mapping[str, Any]
) -> tuple[str, list[str], Settings]:
    """The kind ("gpt2", "llama" or "bert"), the tokens, and all else that is known without making the tokenizer."""
    subject = name or "GGUF tokenizer"
    kind = _get(metadata, "model", str, subject, None)
    if kind is None:
        raise TokenizerError(subject, "has no tokenizer", found="no key tokenizer.ggml.model")
    tokens = _tokens(metadata, subject)
    config = _named_tokens(metadata, kind, tokens, subject)
    config |= _templates(metadata, subject)
    if kind not in _BUILDERS:
        raise TokenizerError(
            subject,
            "tokenizer.ggml.model must be a kind we read",
            found=repr(kind),
            remedy=f"Known: {', '.join(_BUILDERS)}.",
        )
    settings = settings_from({**config, **keywords}, subject)
    if kind == "gpt2":
        pre = find_pre_tokenizer(_get(metadata, "pre", str, subject, None) or "default", subject)
        _decide_ends(metadata, settings, subject, bos=pre.adds_bos)
    elif kind == "llama":
        _decide_ends(metadata, settings, subject, bos=True)
    return kind, tokens, settings


def _byte_level(
    metadata: Mapping[str, Any], tokens: list[str], types: np.ndarray[Any, Any] | None, settings: Settings, subject: str
) -> tokenizers.Tokenizer:
    lines = _get(metadata, "merges", list, subject, None)
    if lines is None:
        raise TokenizerError(subject, "needs tokenizer.ggml.merges")
    pre = _pre_tokenizer(metadata, subject)
    merges = split_merges(lines, f"{subject}: tokenizer.ggml.merges")
    del lines  # the most memory is in use below
    return split_backend(_vocabulary(tokens, subject), merges, pre.patterns, pre.ignore_merges, subject)


def _pre_tokenizer(metadata: Mapping[str, Any], subject: str) -> PreTokenizer:
    name = _get(metadata, "pre", str, subject, None)
    if not name:
        _log.warning("%s does not say how to cut text (tokenizer.ggml.pre); llama.cpp's default is used", subject)
        name = "default"
    return find_pre_tokenizer(name, subject)


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: list[str], types: np.ndarray[Any, Any] | None, settings: Settings, subject: str
) -> tokenizers.Tokenizer:
    from martlet.tokenizers.sentencepiece import Pieces, bpe_backend

    scores = _array(metadata, "scores", len(tokens), subject)
    if scores is None:
        raise TokenizerError(subject, "needs tokenizer.ggml.scores for its kind, 'llama'")
    _vocabulary(tokens, subject)
    kinds = [NORMAL] * len(tokens) if types is None else [int(kind) for kind in types]
    prefix = settings.add_prefix_space
    if prefix is None:
        prefix = bool(_get(metadata, "add_space_prefix", bool, subject, True))
    pieces = Pieces(
        tokens=tokens,
        scores=[float(score) for score in scores],
        kinds=kinds,
        byte_fallback=BYTE in kinds,
        adds_dummy_prefix=prefix,
        removes_extra_spaces=bool(_get(metadata, "remove_extra_whitespaces", bool, subject, False)),
    )
    return bpe_backend(pieces, subject)


def _wordpiece(
    metadata: Mapping[str, Any], tokens: list[str], types: np.ndarray[Any, Any] | None, settings: Settings, subject: str
) -> tokenizers.Tokenizer:
    from martlet.tokenizers.wordpiece import wordpiece_backend

    # The format spells a word's first piece with a leading space mark, and what goes on in a word without "##".
    kinds = [NORMAL] * len(tokens) if types is None else [int(kind) for kind in types]
    spelled = []
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (CONTROL, UNKNOWN) or (token.startswith("[") and token.endswith("]")):
            spelled.append(token)
        else:
            spelled.append(token[1:] if token.startswith("\u2581") else f"##{token}")
    tokens[:] = spelled
    lower = bool(_get(metadata, "normalizer.lowercase", bool, subject, True))
    settings.rest.setdefault("do_lower_case", lower)
    if settings.model_input_names is None:
        settings.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return wordpiece_backend(_vocabulary(spelled, subject), settings)


_BUILDERS = {"gpt2": _byte_level, "llama": _sentencepiece, "bert": _wordpiece}


def _add_marked_tokens(backend: tokenizers.Tokenizer, tokens: list[str], types: np.ndarray[Any, Any] | None) -> None:
    """Control tokens are special; user-defined ones are matched whole and shown. Both are matched in raw text."""
    if types is None:
        return
    special = [AddedToken(tokens[i], special=True, normalized=False) for i in np.flatnonzero(types == CONTROL)]
    backend.add_special_tokens(special)
    own = [AddedToken(tokens[i], special=False, normalized=False) for i in np.flatnonzero(types == USER_DEFINED)]
    backend.add_tokens(own)


def _decide_ends(metadata: Mapping[str, Any], settings: Settings, subject: str, bos: bool) -> None:
    for name, default in (("bos", bos), ("eos", False)):
        key = f"add_{name}_token"
        if getattr(settings, key) is None:
            asked = bool(_get(metadata, key, bool, subject, default))
            known = f"{name}_token" in settings.special_tokens
            if asked and not known and f"tokenizer.ggml.{key}" in metadata:
                raise TokenizerError(
                    subject, f"adds a {name} token but names none", found=f"no tokenizer.ggml.{name}_token_id"
                )
            setattr(settings, key, asked and known)


def _named_tokens(metadata: Mapping[str, Any], kind: str, tokens: list[str], subject: str) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, key in _ID_KEYS.items():
        default = _DEFAULT_IDS.get(kind, {}).get(name)
        found = _get(metadata, key, int, subject, None)
        number = default if found is None else found
        if number is None:
            continue
        if not 0 <= number < len(tokens):
            if found is None:
                continue
            raise TokenizerError(subject, f"tokenizer.ggml.{key} must be below {len(tokens)}", found=number)
        named[name] = tokens[number]
    if kind == "bert" and "bos_token" in named:
        named.setdefault("cls_token", named.pop("bos_token"))
    return named


def _templates(metadata: Mapping[str, Any], subject: str) -> dict[str, Any]:
    found = {}
    main = metadata.get("tokenizer.chat_template")
    if main is not None:
        found["default"] = main
    for key in metadata:
        if key.startswith("tokenizer.chat_template."):
            found[key.removeprefix("tokenizer.chat_template.")] = metadata[key]
    for name, text in found.items():
        if not isinstance(text, str):
            raise TokenizerError(subject, f"the chat template {name!r} must be text", found=type(text).__name__)
    if list(found) == ["default"]:
        return {"chat_template": found["default"]}
    return {"chat_template": found} if found else {}


def _get(metadata: Mapping[str, Any], key: str, kind: type, subject: str, default: Any) -> Any:
    full = f"tokenizer.ggml.{key}"
    if full not in metadata:
        return default
    value = metadata.take(full) if kind is list and isinstance(metadata, Metadata) else metadata[full]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {str: "text", list: "a list of strings", bool: "true or false", int: "a whole number"}
        raise TokenizerError(subject, f"{full} must be {words[kind]}", found=type(value).__name__)
    return value


def _tokens(metadata: Mapping[str, Any], subject: str) -> list[str]:
    tokens = _get(metadata, "tokens", list, subject, None)
    if not tokens:
        raise TokenizerError(subject, "needs tokenizer.ggml.tokens", found="none")
    if not isinstance(tokens[0], str):
        raise TokenizerError(subject, "tokenizer.ggml.tokens must be strings", found=type(tokens[0]).__name__)
    # llama.cpp names empty tokens so, as a vocabulary needs different ones.
    return [token or f"[EMPTY_{number}]" for number, token in enumerate(tokens)]


def _array(metadata: Mapping[str, Any], key: str, count: int, subject: str) -> np.ndarray[Any, Any] | None:
    full = f"tokenizer.ggml.{key}"
    if full not in metadata:
        return None
    value = np.asarray(metadata[full])
    if value.ndim != 1 or value.dtype.kind not in "iuf":
        raise TokenizerError(subject, f"{full} must be a list of numbers", found=f"{type(metadata[full]).__name__}")
    if len(value) != count:
        raise TokenizerError(subject, f"{full} must have an entry for each of {count} tokens", found=len(value))
    return value


def _vocabulary(tokens: list[str], subject: str) -> dict[str, int]:
    vocab = {token: number for number, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))  # type: ignore[func-returns-value]
        raise TokenizerError(subject, "tokenizer.ggml.tokens must all differ", found=f"{twice!r} twice")
    return vocab
