"""A tokenizer in GGUF's words: the `tokenizer.*` keys. Reading them is `gguf`.

What the format has no words for is an error, found by reading the keys back: another text, other ids. Two things it
never says are lost as in llama.cpp's own files: NFC normalisation, and spaces that a special token takes with it.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from martlet.errors import TokenizerError, UnsupportedError
from martlet.tokenizers.fast import as_json
from martlet.tokenizers.gguf import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, tokenizer_from_gguf
from martlet.tokenizers.pretokenizers import GPT2_PATTERN, PRE_TOKENIZERS
from martlet.tokenizers.sentencepiece import SPACE, Pieces, merges_by_score
from martlet.tokenizers.specials import surroundings
from martlet.tokenizers.tokenizer import Tokenizer

_IDS = {
    "bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "cls": "cls", "mask": "mask",
}  # fmt: skip
UNREACHED = -1e9  # the score of a piece that no merge makes

# Read back in one go and line by line: contractions, cases, numbers, signs, spaces, breaks, scripts, pictures.
PROBE = (
    """Hello, world! I'm sure you'd've SAID it's 3.14159 or 1,234,567; they'LL agree, won't they?
def f(x: int) -> str:\n\treturn f"{x!r:>10}"  # 0xFF  != 100_000\n\n\n    if not x:\r\n        pass   \n
camelCase HTTPServer snake_case __init__ a.b.c/d\\e user@host.com https://x.y/z?q=1&r=%20 $5.00 50% <b>&amp;</b>
Straße, ÉCOLE naïve façade Ærø; Ελληνικά και Кириллица; עברית ועוד; العربية؛ हिन्दी में; ไทย; 한국어와 日本語カナ。中文！
½ ² ٣٤٥ Ⅷ ① é ñ ü — “quotes” ‘single’ … • → ∑ ≤ ≠ 🙂👩‍🚀🇫🇷 ~~~ ``` ### *** ((nested [brackets])) {curly}
"""
    + "  two   three    four     five\tend \n \n\t\n"
)


def gguf_metadata(tokenizer: Tokenizer, num_rows: int, ends: Sequence[int] = ()) -> dict[str, Any]:
    """The keys of a tokenizer whose model has `num_rows` token vectors. `ends` are ids that end a turn.

    UnsupportedError where they cannot say this tokenizer, TokenizerError where it has more tokens than the model.
    """
    described = json.loads(as_json(tokenizer.backend_tokenizer))
    model, subject = described["model"], tokenizer.name_or_path or "tokenizer"
    if model["type"] != "BPE" or any(model.get(key) for key in ("dropout", "end_of_word_suffix")):
        raise _lost(subject, f"a {model['type']} model of this kind")
    tokens, types = _tokens(tokenizer, num_rows, subject)
    pre = list(_flat(described["pre_tokenizer"], "pretokenizers"))
    if any(part["type"] == "ByteLevel" for part in pre):
        kind = _byte_level(described, pre, tokenizer, subject)
    else:
        kind = _sentencepiece(tokenizer, model, tokens, types, subject)
    metadata = {f"tokenizer.ggml.{key}": value for key, value in kind.items()}
    metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"] = tokens, types
    for ours, theirs in _IDS.items():
        if (number := getattr(tokenizer, f"{ours}_token_id")) is not None:
            metadata[f"tokenizer.ggml.{theirs}_token_id"] = number
    others = [number for number in ends if number != tokenizer.eos_token_id]
    metadata |= {f"tokenizer.ggml.{key}_token_id": number for key, number in zip(("eot", "eom"), others, strict=False)}
    metadata |= _surroundings(tokenizer, subject) | _templates(tokenizer)
    _check_same(tokenizer, metadata, subject)
    return metadata


def _tokens(tokenizer: Tokenizer, num_rows: int, subject: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Every token in the order of its id, and its type; rows of the model that have no token are filled up."""
    vocab = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    if (longest := max(vocab.values(), default=-1)) >= num_rows:
        raise TokenizerError(subject, f"must fit the model's {num_rows} token vectors", found=f"an id {longest}")
    tokens = [f"[PAD{number}]" for number in range(num_rows)]
    types = np.full(num_rows, UNUSED, np.int32)
    for token, number in vocab.items():
        tokens[number], types[number] = token, NORMAL
    for number, added in tokenizer.backend_tokenizer.get_added_tokens_decoder().items():
        types[number] = CONTROL if added.special else USER_DEFINED
    return tokens, types


def _flat(part: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences taken apart."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for each in part[key]:
            yield from _flat(each, key)
    else:
        yield part


def _byte_level(
    described: dict[str, Any], pre: list[dict[str, Any]], tokenizer: Tokenizer, subject: str
) -> dict[str, Any]:
    for part in _flat(described["normalizer"], "normalizers"):
        if part["type"] != "NFC":
            raise _lost(subject, f"the normalizer {part['type']}")
    model = described["model"]
    patterns = tuple(_patterns(pre, subject))
    ignore = bool(model.get("ignore_merges"))
    alike = (
        name for name, known in PRE_TOKENIZERS.items() if (known.patterns, known.ignore_merges) == (patterns, ignore)
    )
    if (name := next(alike, None)) is None:
        raise _lost(subject, f"its way to cut text (ignore_merges {ignore}): {' | '.join(patterns)}"[:300])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"model": "gpt2", "pre": name, "merges": merges}


def _patterns(pre: list[dict[str, Any]], subject: str) -> Iterator[str]:
    for part in pre:
        match part:
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                yield pattern
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}:
                yield pattern  # what lies between matches goes; there is nothing, as these match every character
            case {"type": "Digits", "individual_digits": alone}:
                yield r"\p{N}" if alone else r"\p{N}+"
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": uses}:
                if uses:
                    yield GPT2_PATTERN
            case _:
                raise _lost(subject, f"the pre-tokenizer {json.dumps(part)[:200]}")


def _sentencepiece(
    tokenizer: Tokenizer, model: dict[str, Any], tokens: list[str], types: np.ndarray[Any, Any], subject: str
) -> dict[str, Any]:
    """Scores that put the merges in their order: minus the place, among what merges make, of what a merge makes."""
    if not model.get("byte_fallback"):
        raise _lost(subject, "BPE that is neither byte-level nor falls back to bytes")
    for number, token in enumerate(tokens):
        if types[number] == NORMAL and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[number] = BYTE
    vocab = {token: number for number, token in enumerate(tokens)}
    if (unknown := vocab.get(model.get("unk_token") or "")) is not None:
        types[unknown] = UNKNOWN
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    pairs = [pair for pair in pairs if types[vocab["".join(pair)]] == NORMAL]
    made = [token for token, _ in itertools.groupby("".join(pair) for pair in pairs)]
    place = {token: number for number, token in enumerate(made)}
    scores = [-float(place[token]) if token in place else UNREACHED for token in tokens]
    found = set(merges_by_score(Pieces(tokens, scores, types.tolist()), vocab))
    if len(place) < len(made) or found != set(pairs):
        raise _lost(subject, "merges that are not, token for token, all the ways to make it")
    normal, parts = tokenizer.backend_tokenizer.normalizer, tokenizer.backend_tokenizer.pre_tokenizer
    seen = normal.normalize_str("a  b") if normal else "a  b"
    if parts:
        seen = "".join(piece for piece, _ in parts.pre_tokenize_str(seen))
    for number, token in enumerate(tokens):
        if types[number] == USER_DEFINED:  # found in the text as it is, where a space is a space
            tokens[number] = token.replace(SPACE, " ")
    return {
        "model": "llama",
        "pre": "default",
        "scores": np.asarray(scores, np.float32),
        "add_space_prefix": seen.startswith((SPACE, " ")),
        "remove_extra_whitespaces": seen.count(SPACE) - seen.startswith(SPACE) < 2,
    }


def _surroundings(tokenizer: Tokenizer, subject: str) -> dict[str, Any]:
    before, after = surroundings(tokenizer.backend_tokenizer)
    said = {}
    for name, ids in (("bos", before), ("eos", after)):
        if ids and ids != [getattr(tokenizer, f"{name}_token_id")]:
            raise _lost(subject, f"ids {ids} around every text, other than its {name} token")
        said[f"tokenizer.ggml.add_{name}_token"] = bool(ids)
    return said


def _templates(tokenizer: Tokenizer) -> dict[str, Any]:
    template = tokenizer.chat_template
    named = {"default": template} if isinstance(template, str) else dict(template or {})
    said: dict[str, Any] = {}
    if "default" in named:
        said["tokenizer.chat_template"] = named.pop("default")
    if named:
        said["tokenizer.chat_templates"] = list(named)
    return said | {f"tokenizer.chat_template.{name}": text for name, text in named.items()}


def _check_same(tokenizer: Tokenizer, metadata: dict[str, Any], subject: str) -> None:
    back = tokenizer_from_gguf(metadata, subject, {})
    lines = [unicodedata.normalize("NFC", text) for text in (PROBE, *PROBE.split("\n"))]
    for text in lines:
        ours, theirs = (list(each.encode(text)) for each in (tokenizer, back))
        if ours != theirs:
            at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
            shown = (each.convert_ids_to_tokens(ids[at : at + 4]) for each, ids in ((tokenizer, ours), (back, theirs)))
            raise _lost(subject, "how this tokenizer cuts text", "{} where it has {}".format(*reversed(list(shown))))


def _lost(subject: str, what: str, found: str | None = None) -> UnsupportedError:
    return UnsupportedError(subject, f"GGUF has no words for {what}", found=found, remedy="Save the model as a folder.")
