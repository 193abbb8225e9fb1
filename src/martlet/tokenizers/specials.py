"""The special tokens of a backend: that they exist there, and what encoding puts around a sequence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from martlet.errors import TokenizerError
from martlet.tokenizers.settings import Settings


def as_special(token: str | AddedToken) -> AddedToken:
    """A token to be matched whole in raw text and left out by `skip_special_tokens`."""
    return token if isinstance(token, AddedToken) else AddedToken(token, special=True, normalized=False)


def prepare_backend(backend: tokenizers.Tokenizer, settings: Settings) -> None:
    """Take over what tokenizer.json says of padding, then add the tokens that only the other files name.

    A token that tokenizer.json has keeps the id and flags it has there, whatever the other files say of it. A token
    it lacks must get the id that was promised for it; else TokenizerError.
    """
    _check_template(backend)
    _take_over_limits(backend, settings)
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for number, token in sorted(settings.added_tokens.items()):
        if token.content in known or backend.token_to_id(token.content) is not None:
            continue
        if number != backend.get_vocab_size(with_added_tokens=True):
            raise TokenizerError(
                "tokenizer_config.json",
                f"gives the id {number} to {token.content!r}, which tokenizer.json does not have",
                found=f"{backend.get_vocab_size(with_added_tokens=True)} as the next free id",
                remedy="Are both files from the same checkpoint?",
            )
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
    declared = {token.content: token for token in settings.added_tokens.values()}
    listed = backend.get_added_tokens_decoder().values()
    special = {token.content for token in listed if token.special}
    for named in [*settings.special_tokens.values(), *settings.extra_special_tokens]:
        if str(named) not in special:
            token = named if isinstance(named, AddedToken) else declared.get(named, as_special(named))
            token.special = True
            backend.add_special_tokens([token])


def _check_template(backend: tokenizers.Tokenizer) -> None:
    """TokenizerError for a post-processor that puts tokens around a text which it gives no ids: it would panic."""
    if backend.post_processor is None:
        return
    described = json.loads(backend.post_processor.__getstate__())
    for part in described.get("processors", [described]):
        pieces = [piece for key in ("single", "pair") for piece in part.get(key) or () if "SpecialToken" in piece]
        for piece in pieces:
            if (name := piece["SpecialToken"]["id"]) not in part.get("special_tokens", {}):
                raise TokenizerError("tokenizer.json", f"its post_processor adds {name!r}, to which it gives no id")


def _take_over_limits(backend: tokenizers.Tokenizer, settings: Settings) -> None:
    if backend.padding is not None:
        pad = backend.padding
        if backend.token_to_id(pad["pad_token"]) is not None:
            settings.special_tokens.setdefault("pad_token", pad["pad_token"])
        settings.padding_side = settings.padding_side or pad["direction"]
        backend.no_padding()
    if backend.truncation is not None:
        settings.truncation_side = settings.truncation_side or backend.truncation["direction"]
        backend.no_truncation()


def input_names(backend: tokenizers.Tokenizer, settings: Settings) -> list[str]:
    """What the model's class takes; where no class is named, token types only with WordPiece, which BERTs use."""
    takes = settings.takes_token_types
    if takes is None:
        takes = type(backend.model).__name__ == "WordPiece"
    return ["input_ids", "token_type_ids", "attention_mask"] if takes else ["input_ids", "attention_mask"]


def surroundings(backend: tokenizers.Tokenizer, pair: bool = False) -> list[list[int]]:
    """Ids that encoding puts before, (between) and after the sequence(s): two lists, or three for a pair."""
    encoding = _example(backend, pair)
    groups: list[list[int]] = [[]]
    last: int | None = None
    for number, sequence in zip(encoding.ids, encoding.sequence_ids, strict=True):
        if sequence is None:
            groups[-1].append(number)
        elif sequence != last:
            groups.append([])
            last = sequence
    return groups


def _example(backend: tokenizers.Tokenizer, pair: bool) -> tokenizers.Encoding:
    for text in ("a", "0", ".", "the"):
        plain = backend.encode(text, add_special_tokens=False)
        if plain.ids and not any(plain.special_tokens_mask):
            return backend.encode(text, text if pair else None)
    raise TokenizerError("tokenizer", "cannot tell what it puts around a text, as it has no token for plain letters")


def surround(
    backend: tokenizers.Tokenizer, first: Sequence[int], second: Sequence[int] | None
) -> tuple[list[int], list[int], list[int]]:
    """(ids, special tokens mask, type ids) of one or two sequences with what encoding would put around them."""
    groups = surroundings(backend, second is not None)
    types = _type_ids(backend, second is not None)
    ids: list[int] = list(groups[0])
    mask = [1] * len(groups[0])
    type_ids = types[0][:]
    for number, sequence in enumerate([first] if second is None else [first, second]):
        after = groups[number + 1]
        ids += [*map(int, sequence), *after]
        mask += [0] * len(sequence) + [1] * len(after)
        type_ids += [types[2 * number + 1][0]] * len(sequence) + types[2 * number + 2]
    return ids, mask, type_ids


def _type_ids(backend: tokenizers.Tokenizer, pair: bool) -> list[list[int]]:
    encoding = _example(backend, pair)
    groups: list[list[int]] = [[]]
    last: int | None = None
    for kind, sequence in zip(encoding.type_ids, encoding.sequence_ids, strict=True):
        if sequence != last and sequence is not None:
            groups += [[kind], []]
            last = sequence
        elif sequence is None:
            groups[-1].append(kind)
    return groups


def set_surroundings(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Make encoding add exactly these tokens; a byte-level processor, which trims offsets, is kept."""
    before = f"{bos}:0 " if bos else ""
    single = f"{before}$A:0{f' {eos}:0' if eos else ''}"
    pair = f"{single}{f' {bos}:1' if bos else ''} $B:1{f' {eos}:1' if eos else ''}"
    named: dict[str, int] = {}
    for token in (bos, eos):
        if token is not None:
            number = backend.token_to_id(token)
            if number is None:
                raise TokenizerError("tokenizer", f"cannot add {token!r} to a sequence: it is not in the vocabulary")
            named[token] = number
    template = processors.TemplateProcessing(single=single, pair=pair, special_tokens=list(named.items()))
    kept = _byte_level(backend)
    backend.post_processor = processors.Sequence([kept, template]) if kept is not None else template


def _byte_level(backend: tokenizers.Tokenizer) -> Any:
    if backend.post_processor is None:
        return None
    described = json.loads(backend.post_processor.__getstate__())
    parts = described.get("processors", [described])
    found = next((part for part in parts if part.get("type") == "ByteLevel"), None)
    if found is None:
        return None
    return processors.ByteLevel(
        trim_offsets=found["trim_offsets"], add_prefix_space=found.get("add_prefix_space", True)
    )
