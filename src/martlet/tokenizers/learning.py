"""A new vocabulary for a tokenizer's pipeline, learned from texts: `train_new_from_iterator`."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import AddedToken, pre_tokenizers, trainers

from martlet.errors import ArgumentError, UnsupportedError
from martlet.tokenizers.fast import as_json

if TYPE_CHECKING:
    from martlet.tokenizers.vocabulary import Vocabulary

_TRAINERS = {
    "BPE": trainers.BpeTrainer,
    "Unigram": trainers.UnigramTrainer,
    "WordLevel": trainers.WordLevelTrainer,
    "WordPiece": trainers.WordPieceTrainer,
}
# Options of trainers that are no attributes of theirs.
_UNSEEN = {"max_token_length", "shrinking_factor", "unk_token", "max_piece_length", "n_sub_iterations", "seed_size"}
_FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def train_new(
    tokenizer: Vocabulary,
    texts: Iterable[Any],
    vocab_size: int,
    length: int | None,
    new_special_tokens: Sequence[str | AddedToken] | None,
    renamed: Mapping[str, str] | None,
    options: dict[str, Any],
) -> Any:
    """See `Vocabulary.train_new_from_iterator`."""
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < 1:
        raise ArgumentError("vocab_size", "must be an integer of at least 1", found=repr(vocab_size))
    names = dict(renamed or {})
    with tokenizer._lock:
        described = json.loads(as_json(tokenizer._backend))
    added, processor = described["added_tokens"], described["post_processor"]
    described["added_tokens"], described["post_processor"] = [], None
    kind, unknown = described["model"].get("type"), _emptied(described["model"], names)
    if kind not in _TRAINERS:
        raise UnsupportedError("train_new_from_iterator", f"cannot train a {kind} model")
    backend = tokenizers.Tokenizer.from_str(json.dumps(described))
    kept = [token for token in added if token["special"] or kind == "Unigram"]
    special = [
        AddedToken(
            **{flag: token[flag] for flag in _FLAGS} | {"content": names.get(token["content"], token["content"])}
        )
        for token in kept
    ]
    given = dict(options)
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if kind == "BPE" and described["model"].get(key) is not None:
            given.setdefault(key, described["model"][key])
    if unknown is not None:
        given["unk_token"] = unknown
    if _is_byte_level(described["pre_tokenizer"]):
        given["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    known = {name for name in dir(_TRAINERS[kind]) if not name.startswith("_")} | _UNSEEN
    if unknown_options := sorted(set(given) - known):
        raise ArgumentError("train_new_from_iterator", f"does not take {unknown_options[0]!r}", found=f"a {kind} model")
    trainer = _TRAINERS[kind](vocab_size=vocab_size, special_tokens=[*special, *(new_special_tokens or ())], **given)
    try:
        backend.train_from_iterator(texts, length=length, trainer=trainer)
    except TypeError as problem:
        raise ArgumentError("text_iterator", "must give texts, or lists of texts", found=problem) from problem
    if processor is not None:
        whole = json.loads(backend.to_str())
        whole["post_processor"] = _with_new_ids(processor, backend, names)
        backend = tokenizers.Tokenizer.from_str(json.dumps(whole))
    settings = copy.deepcopy(tokenizer.settings)
    settings.added_tokens = {}
    settings.special_tokens = {name: _renamed(token, names) for name, token in settings.special_tokens.items()}
    extra = [_renamed(token, names) for token in settings.extra_special_tokens]
    settings.extra_special_tokens = [
        *extra,
        *(new for new in new_special_tokens or () if str(new) not in map(str, extra)),
    ]
    make: Any = type(tokenizer)
    return make(backend, settings, name_or_path=tokenizer.name_or_path)


def _emptied(model: dict[str, Any], names: Mapping[str, str]) -> str | None:
    """Takes the vocabulary out of a model; of a Unigram, gives the unknown token, which must stay."""
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if model.get("type") != "Unigram":
        model["vocab"] = {}
        if "merges" in model:
            model["merges"] = []
        return None
    if model.get("unk_id") is None:
        model["vocab"] = []
        return None
    unknown: str = model["vocab"][model["unk_id"]][0]
    unknown = names.get(unknown, unknown)
    model["unk_id"], model["vocab"] = 0, [[unknown, 0.0]]
    return unknown


def _is_byte_level(described: Mapping[str, Any] | None) -> bool:
    parts = [] if described is None else described.get("pretokenizers", [described])
    return any(part["type"] == "ByteLevel" for part in parts)


def _with_new_ids(processor: dict[str, Any], backend: tokenizers.Tokenizer, names: Mapping[str, str]) -> dict[str, Any]:
    """A post-processor with the ids its tokens have now, under their new names."""
    for part in processor.get("processors", [processor]):
        for piece in [*(part.get("single") or ()), *(part.get("pair") or ())]:
            if "SpecialToken" in piece:
                piece["SpecialToken"]["id"] = names.get(piece["SpecialToken"]["id"], piece["SpecialToken"]["id"])
        for token in list(part.get("special_tokens") or ()):
            entry = part["special_tokens"].pop(token)
            entry["id"] = names.get(entry["id"], entry["id"])
            entry["tokens"] = [names.get(each, each) for each in entry["tokens"]]
            entry["ids"] = [_id(backend, each) for each in entry["tokens"]]
            part["special_tokens"][names.get(token, token)] = entry
        for place in ("cls", "sep"):
            if place in part:
                token = names.get(part[place][0], part[place][0])
                part[place] = [token, _id(backend, token)]
    return processor


def _id(backend: tokenizers.Tokenizer, token: str) -> int:
    found = backend.token_to_id(token)
    if found is None:
        raise ArgumentError(
            "train_new_from_iterator",
            f"the new vocabulary lacks {token!r}, which the tokenizer puts around a text",
            remedy="Pass it among new_special_tokens.",
        )
    return found


def _renamed(token: str | AddedToken, names: Mapping[str, str]) -> str | AddedToken:
    return names.get(str(token), token)
