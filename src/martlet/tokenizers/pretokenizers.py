"""How text is cut before byte-level BPE, by the names that llama.cpp gives it in `tokenizer.ggml.pre`.

The names and what they stand for: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp. Where that
page approximates a model's own expression, the model's own is used, as its tokenizer.json has it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from martlet.errors import TokenizerError


@dataclass(frozen=True)
class PreTokenizer:
    """Expressions that cut text one after the other, each isolating its matches."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a piece that is a token is taken as it is
    adds_bos: bool = False  # where the file does not say


def _class(*ranges: str) -> str:
    """A character class of hexadecimal code points and ranges."""
    return "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for span in ranges for part in span.split())


GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _tiktoken(number: str, letter: str = r"\p{L}", mark: str = r"\p{L}\p{N}", end: str = r"[\r\n]*") -> str:
    """The cl100k kind: contractions, words with one leading sign, numbers, signs, line breaks, spaces."""
    return rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?{letter}+|{number}| ?[^\s{mark}]+{end}|{_SPACES}"


_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(number: str, ending: str = "") -> str:
    """The o200k kind: a word ends where small letters turn to capitals."""
    sign = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{sign}{_UPPER}*{_LOWER}+{ending}|{sign}{_UPPER}+{_LOWER}*{ending}"
    return rf"{words}|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


_CJK = f"[{_class('4E00-9FA5 0800-4E00 AC00-D7FF')}]+"
_HAN_KANA = f"[{_class('4E00-9FA5 3040-309F 30A0-30FF')}]+"
_CASED_LETTERS = _class(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1",
    "3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77",
    "1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE",
    "1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124",
    "2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3",
    "A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A",
    "10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943",
)
_SIGNS = f"[!-/:-~{_class('FF01-FF0F FF1A-FF5E 2018-201F 3000-3002')}]"
_DEEPSEEK3_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_DIGITS3 = r"\p{N}{1,3}"

_LLAMA3 = PreTokenizer((_tiktoken(_DIGITS3),), ignore_merges=True, adds_bos=True)
_CL100K = PreTokenizer((_tiktoken(_DIGITS3),))
_QWEN2 = PreTokenizer((_tiktoken(r"\p{N}"),))
_QWEN35 = PreTokenizer((_tiktoken(r"\p{N}", r"[\p{L}\p{M}]", r"\p{L}\p{M}\p{N}"),))
_PLAIN = PreTokenizer((GPT2_PATTERN,))
_DIGITWISE = PreTokenizer((r"\p{N}", GPT2_PATTERN))
_O200K = PreTokenizer((_cased(_DIGITS3, _SHORT + "?"),))
_DEEPSEEK3 = PreTokenizer((_DIGITS3, _HAN_KANA, _DEEPSEEK3_WORDS))
_BAILING = PreTokenizer((
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
))  # fmt: skip

_GROUPS: dict[str, PreTokenizer] = {
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": _LLAMA3,
    "dbrx smaug-bpe glm4 chatglm-bpe": _CL100K,
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2": _QWEN2,
    "qwen35": _QWEN35,
    "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 jina-es jina-de jina-v2-es jina-v2-de gigachat "
    "a.x-4.0 mellum modern-bert": _PLAIN,
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": _DIGITWISE,
    "gpt-4o llama4 kanana2 talkie minimax-m2": _O200K,
    "granite-embed-multi-97m": PreTokenizer(_O200K.patterns, ignore_merges=True),
    "tekken": PreTokenizer((_cased(r"\p{N}"),), ignore_merges=True, adds_bos=True),
    "tiny_aya cohere2moe": PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", *_O200K.patterns)),
    "deepseek-llm": PreTokenizer((r"[\r\n]", rf"\s?[{_CASED_LETTERS}]+", rf"\s?{_SIGNS}+", r"\s+$", _CJK, r"\p{N}+")),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": _DEEPSEEK3,
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2_PATTERN, "[0-9][0-9][0-9]")),
    "bailingmoe bailingmoe2 llada-moe": _BAILING,
    "seed-coder": PreTokenizer(
        (rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)
    ),
    "minicpm5": PreTokenizer((_DIGITS3, _tiktoken(r"\p{N}+")), ignore_merges=True),
    "ufakzeka": PreTokenizer((rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",)),
    "poro-chat bloom gpt3-finnish": PreTokenizer((_BLOOM,)),
    "viking": PreTokenizer((_BLOOM, r"\p{N}")),
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]")),
}
PRE_TOKENIZERS = {name: made for names, made in _GROUPS.items() for name in names.split()}


def find_pre_tokenizer(name: str, subject: str) -> PreTokenizer:
    """The pre-tokenizer of a name; TokenizerError naming the known ones, never a guess."""
    if name in PRE_TOKENIZERS:
        return PRE_TOKENIZERS[name]
    near = difflib.get_close_matches(name, PRE_TOKENIZERS, 1)
    remedy = f"Did the file mean {near[0]!r}? " if near else ""
    raise TokenizerError(
        subject,
        "tokenizer.ggml.pre must name a known way to cut text",
        found=repr(name)[:80],
        remedy=f"{remedy}Known: {', '.join(sorted(PRE_TOKENIZERS))}.",
    )
