"""WordPiece backends, as BERT's: from vocab.txt, or from a GGUF file's words."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from martlet.errors import TokenizerError
from martlet.tokenizers.settings import Settings

_DEFAULTS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def read_words(text: str, subject: str) -> dict[str, int]:
    """The words of a vocab.txt, one a line, whose numbers are their ids."""
    lines = [line.rstrip("\r") for line in text.split("\n")]  # a word may be another kind of line break
    while lines and not lines[-1]:
        lines.pop()
    vocab = {word: number for number, word in enumerate(lines)}
    if len(vocab) != len(lines):
        seen: set[str] = set()
        twice = next(word for word in lines if word in seen or seen.add(word))  # type: ignore[func-returns-value]
        raise TokenizerError(subject, "must hold each word once", found=f"{twice!r} twice")
    return vocab


def wordpiece_backend(vocab: dict[str, int], settings: Settings) -> tokenizers.Tokenizer:
    """BERT's pipeline. `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` come from the settings."""
    for name, token in _DEFAULTS.items():
        if token in vocab:
            settings.special_tokens.setdefault(name, token)
    unknown = str(settings.special_tokens.get("unk_token", ""))
    if unknown not in vocab:
        raise TokenizerError("WordPiece vocabulary", "needs its unknown token", found=f"no {unknown or '[UNK]'!r}")
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.rest.get("tokenize_chinese_chars") is not False,
        strip_accents=settings.rest.get("strip_accents"),
        lowercase=settings.rest.get("do_lower_case") is not False,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    start, end = (str(settings.special_tokens.get(name, "")) for name in ("cls_token", "sep_token"))
    if start in vocab and end in vocab:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{start}:0 $A:0 {end}:0",
            pair=f"{start}:0 $A:0 {end}:0 $B:1 {end}:1",
            special_tokens=[(start, vocab[start]), (end, vocab[end])],
        )
    return backend
