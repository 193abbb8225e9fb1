"""SentencePiece models, read without the `sentencepiece` package: tokenizer.model files and what GGUF keeps of them.

The file is a protobuf: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from martlet.errors import TokenizerError, UnsupportedError
from martlet.tokenizers.bytelevel import make_bpe
from martlet.tokenizers.settings import Settings

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
_UNIGRAM, _BPE = 1, 2

# Their ids are not their model file's: the old fairseq order is put in front.
_RENUMBERED = {"XLMRoberta", "Camembert", "Barthez", "MBart", "MBart50", "XGLM", "Nllb", "Pegasus", "BigBird"}
_ADDS = {  # (bos, eos), where tokenizer_config.json does not say
    "Llama": (True, False),
    "CodeLlama": (True, False),
    "Gemma": (True, False),
    "T5": (False, True),
}


@dataclass
class Pieces:
    """The pieces of a model and how text is prepared for them."""

    tokens: list[str]
    scores: list[float]
    kinds: list[int]
    byte_fallback: bool = False
    adds_dummy_prefix: bool = True
    removes_extra_spaces: bool = True
    charsmap: bytes = b""
    is_unigram: bool = False
    matches_symbols_late: bool = False  # user-defined symbols are found in prepared text, as SentencePiece does
    named: dict[str, str] = field(default_factory=dict)  # bos_token, eos_token, unk_token, pad_token

    def of_kind(self, kind: int) -> list[str]:
        return [token for token, its in zip(self.tokens, self.kinds, strict=True) if its == kind]


def read_sentencepiece(data: bytes, subject: str) -> Pieces:
    """Parse a model file. TokenizerError says where the bytes stop making sense."""
    pieces = Pieces([], [], [], matches_symbols_late=True)
    trainer, normalizer = b"", b""
    for number, value in _fields(data, subject):
        if number == 1:
            token, score, kind = _piece(_bytes(value, subject), subject)
            pieces.tokens.append(token)
            pieces.scores.append(score)
            pieces.kinds.append(kind)
        elif number == 2:
            trainer = _bytes(value, subject)
        elif number == 3:
            normalizer = _bytes(value, subject)
    if not pieces.tokens:
        raise TokenizerError(subject, "must be a SentencePiece model with pieces", found="none")
    _read_trainer(pieces, trainer, subject)
    for number, value in _fields(normalizer, subject):
        if number == 2:
            pieces.charsmap = _bytes(value, subject)
        elif number == 3:
            pieces.adds_dummy_prefix = bool(value)
        elif number == 4:
            pieces.removes_extra_spaces = bool(value)
        elif number == 5 and not value:
            raise UnsupportedError(subject, "escape_whitespaces=false is not supported")
    return pieces


def _read_trainer(pieces: Pieces, data: bytes, subject: str) -> None:
    spec: dict[int, Any] = {3: _UNIGRAM, 40: 0, 41: 1, 42: 2, 43: -1}
    spec |= dict(_fields(data, subject))
    if spec[3] not in (_UNIGRAM, _BPE):
        raise UnsupportedError(subject, "only the unigram and BPE kinds of SentencePiece are read", found=spec[3])
    if spec.get(24):
        raise UnsupportedError(subject, "treat_whitespace_as_suffix is not supported")
    pieces.is_unigram = spec[3] == _UNIGRAM
    pieces.byte_fallback = bool(spec.get(35))
    for name, key in (("unk_token", 40), ("bos_token", 41), ("eos_token", 42), ("pad_token", 43)):
        number = _signed(spec[key])
        if 0 <= number < len(pieces.tokens) and pieces.kinds[number] in (CONTROL, UNKNOWN):
            pieces.named[name] = pieces.tokens[number]


def sentencepiece_backend(pieces: Pieces, settings: Settings) -> tokenizers.Tokenizer:
    """A backend whose ids of plain text are SentencePiece's own."""
    if settings.family in _RENUMBERED:
        raise TokenizerError(
            "tokenizer.model",
            f"has not the ids that {settings.family} uses",
            remedy="This family needs its tokenizer.json, which has them.",
        )
    for name, token in pieces.named.items():
        settings.special_tokens.setdefault(name, token)
    if settings.add_prefix_space is not None:
        pieces.adds_dummy_prefix = settings.add_prefix_space
    backend = unigram_backend(pieces) if pieces.is_unigram else bpe_backend(pieces, "tokenizer.model")
    special = [AddedToken(t, special=True, normalized=False) for t in pieces.of_kind(CONTROL) + pieces.of_kind(UNKNOWN)]
    backend.add_special_tokens(special)
    backend.add_tokens([AddedToken(token, normalized=True) for token in pieces.of_kind(USER_DEFINED)])
    bos, eos = _ADDS.get(settings.family, (False, False))
    for name, adds in (("add_bos_token", bos), ("add_eos_token", eos)):
        if getattr(settings, name) is None:
            setattr(settings, name, adds and name[4:] in settings.special_tokens)
    return backend


def bpe_backend(pieces: Pieces, subject: str) -> tokenizers.Tokenizer:
    """BPE that joins the pair whose whole has the best score, as merges in that order."""
    vocab = {token: number for number, token in enumerate(pieces.tokens)}
    unknown = pieces.of_kind(UNKNOWN)
    model = make_bpe(
        vocab,
        merges_by_score(pieces, vocab),
        subject,
        unk_token=unknown[0] if unknown else None,
        fuse_unk=True,
        byte_fallback=pieces.byte_fallback,
    )
    backend = tokenizers.Tokenizer(model)
    _prepare(backend, pieces)
    return backend


def merges_by_score(pieces: Pieces, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every way a normal piece is two others, best score first; of one piece, the ways that come first in it first."""
    joined = (NORMAL, USER_DEFINED, UNUSED)
    whole = {token: n for token, n in vocab.items() if pieces.kinds[n] in joined}
    found: list[tuple[float, int, int, str, str]] = []
    for token, number in whole.items():
        if pieces.kinds[number] == USER_DEFINED:
            continue
        score = -pieces.scores[number]
        if math.isnan(score):
            raise TokenizerError("SentencePiece model", f"the score of {token!r} must be a number", found="nan")
        for cut in range(1, len(token)):
            left = token[:cut]
            if left in whole and (right := token[cut:]) in whole:
                found.append((score, vocab[left], vocab[right], left, right))
    found.sort(key=lambda entry: entry[:3])
    return [entry[3:] for entry in found]


def unigram_backend(pieces: Pieces) -> tokenizers.Tokenizer:
    """Unigram: the cut of the text into pieces whose scores sum highest."""
    unknown = next((n for n, kind in enumerate(pieces.kinds) if kind == UNKNOWN), None)
    scores = list(pieces.scores)
    wrong = next((token for token, score in zip(pieces.tokens, scores, strict=True) if not math.isfinite(score)), None)
    if wrong is not None:
        raise TokenizerError("tokenizer.model", f"the score of {wrong!r} must be finite")
    lowest = min(scores)
    for number, kind in enumerate(pieces.kinds):
        if kind in (CONTROL, UNUSED, BYTE):  # never cut out of text, only found as added tokens or fallen back to
            scores[number] = lowest - 1000.0
    try:
        model = models.Unigram(list(zip(pieces.tokens, scores, strict=True)), unknown, pieces.byte_fallback)
    except Exception as problem:  # the backend raises nothing more precise
        raise TokenizerError("tokenizer.model", "is not a unigram vocabulary", found=str(problem)) from problem
    backend = tokenizers.Tokenizer(model)
    _prepare(backend, pieces)
    return backend


def _prepare(backend: tokenizers.Tokenizer, pieces: Pieces) -> None:
    steps: list[Any] = [normalizers.Precompiled(pieces.charsmap)] if pieces.charsmap else []
    if pieces.removes_extra_spaces:
        spaces = f"[ {SPACE}]"
        steps.append(normalizers.Replace(Regex(rf"\A +|{spaces}+\z"), ""))
        steps.append(normalizers.Replace(Regex(f"{spaces}{{2,}}"), " "))
    if pieces.adds_dummy_prefix:
        steps.append(_dummy_prefix(pieces.of_kind(USER_DEFINED) if pieces.matches_symbols_late else []))
    steps.append(normalizers.Replace(" ", SPACE))
    backend.normalizer = normalizers.Sequence(steps)
    if not any(SPACE in token[1:] for token in pieces.tokens):  # else a piece may span words
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=True)
    chain: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if pieces.adds_dummy_prefix:
        chain.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(chain)


def _dummy_prefix(symbols: list[str]) -> normalizers.Normalizer:
    if not symbols:
        return normalizers.Prepend(SPACE)
    # The backend prepares the symbols themselves too, to look for them, and they must stay without the prefix.
    alone = "|".join(re.escape(symbol) for symbol in symbols)
    return normalizers.Replace(Regex(rf"\A(?!(?:{alone})\z)(?=.)"), SPACE)


def _piece(data: bytes, subject: str) -> tuple[str, float, int]:
    token, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data, subject):
        if number == 1:
            try:
                token = _bytes(value, subject).decode("utf-8")
            except UnicodeDecodeError as problem:
                raise TokenizerError(subject, "a piece must be UTF-8", found=repr(value)[:40]) from problem
        elif number == 2:
            stored = _bytes(value, subject)
            if len(stored) != 4:
                raise TokenizerError(subject, "a piece's score must be a 32-bit number", found=f"{len(stored)} bytes")
            score = struct.unpack("<f", stored)[0]
        elif number == 3:
            kind = value if isinstance(value, int) else 0
    if not NORMAL <= kind <= BYTE:
        raise TokenizerError(subject, f"the kind of the piece {token!r} must be 1 to 6", found=kind)
    return token, score, kind


def _fields(data: bytes, subject: str) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protobuf message; fixed-width values come as their bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position, subject)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position, subject)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(data, position, subject)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise _damaged(subject, position)
        if number == 0 or position + size > len(data):
            raise _damaged(subject, position)
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int, subject: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _damaged(subject, position)


def _damaged(subject: str, position: int) -> TokenizerError:
    return TokenizerError(
        subject, "must be a SentencePiece model", found=f"damage at byte {position}", remedy="Is it truncated?"
    )


def _bytes(value: int | bytes, subject: str) -> bytes:
    if isinstance(value, int):
        raise TokenizerError(subject, "must be a SentencePiece model", found="a number where bytes belong")
    return value


def _signed(value: Any) -> int:
    return value - (1 << 64) if isinstance(value, int) and value >= 1 << 63 else int(value)
