"""Tokenizers under Hugging Face's class names, made from a backend or from files: `PreTrainedTokenizerFast`."""

from __future__ import annotations

import copy
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import tokenizers

from martlet.errors import ArgumentError, TokenizerError
from martlet.tokenizers.loading import backend_from_json, load_tokenizer
from martlet.tokenizers.settings import check_keywords, settings_from
from martlet.tokenizers.tokenizer import Tokenizer

# Names of special tokens that a class gives a tokenizer made without files that name them.
_BERT = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
NAMED: dict[str, dict[str, str]] = {
    "Bert": _BERT,
    "DistilBert": _BERT,
    "GPT2": _GPT2,
    "GPTNeoX": _GPT2,
    "Gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "Llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "Qwen2": {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "Roberta": _ROBERTA,
    "XLMRoberta": _ROBERTA,
}


class _OfTokenizers(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tokenizer)


class PreTrainedTokenizerFast(metaclass=_OfTokenizers):
    """Makes a `Tokenizer` of a `tokenizers.Tokenizer`, or of its tokenizer.json; `from_pretrained` reads any files.

    `vocab_file` and `merges_file` are what is built from without tokenizer.json. Further keywords are those of
    tokenizer_config.json: `bos_token`, `model_max_length`, `padding_side`... Every tokenizer is an instance.
    """

    family: ClassVar[str] = ""

    def __new__(
        cls,
        *files: Any,
        tokenizer_object: tokenizers.Tokenizer | None = None,
        tokenizer_file: str | PathLike[str] | None = None,
        vocab_file: str | PathLike[str] | None = None,
        merges_file: str | PathLike[str] | None = None,
        name_or_path: str = "",
        **keywords: Any,
    ) -> Any:
        if files:
            raise ArgumentError(cls.__name__, "takes its files by keyword, vocab_file= for one", found=repr(files[0]))
        check_keywords(keywords)
        asked = {"tokenizer_class": f"{cls.family or 'PreTrained'}Tokenizer", **NAMED.get(cls.family, {}), **keywords}
        if not cls.family:  # which models take is not known, and token types are an exception
            asked.setdefault("model_input_names", ["input_ids", "attention_mask"])
        if tokenizer_object is not None:
            given: Any = tokenizer_object
            if not isinstance(given, tokenizers.Tokenizer):
                found = type(given).__name__
                raise ArgumentError("tokenizer_object", "must be a tokenizers.Tokenizer", found=found)
            return Tokenizer(copy.deepcopy(tokenizer_object), settings_from(asked, cls.__name__), name_or_path)
        if tokenizer_file is not None:
            return Tokenizer(backend_from_json(Path(tokenizer_file)), settings_from(asked, cls.__name__), name_or_path)
        named_files = _Given(vocab_file, merges_file)
        if not named_files.list():
            raise ArgumentError(cls.__name__, "needs tokenizer_object, tokenizer_file or vocab_file")
        named = {key: value for key, value in asked.items() if key != "tokenizer_class"}
        return load_tokenizer(named_files, name_or_path, named)

    @classmethod
    def from_pretrained(cls, name_or_path: str | PathLike[str], *inputs: Any, **keywords: Any) -> Tokenizer:
        """The same as `AutoTokenizer.from_pretrained`: a tokenizer is what its files say, whatever the class."""
        return Tokenizer.from_pretrained(name_or_path, *inputs, **keywords)


class _Given:
    """Files that were named one by one, under the names they are looked for by."""

    def __init__(self, vocab: str | PathLike[str] | None, merges: str | PathLike[str] | None) -> None:
        self._files: dict[str, Path] = {}
        if vocab is not None:
            kind = Path(vocab).suffix
            names = {".txt": "vocab.txt", ".json": "vocab.json", ".model": "tokenizer.model"}
            if kind not in names:
                raise TokenizerError(str(vocab), f"must be one of {', '.join(names)}", found=kind or "no ending")
            self._files[names[kind]] = Path(vocab)
        if merges is not None:
            self._files["merges.txt"] = Path(merges)

    def file(self, filename: str) -> Path | None:
        return self._files.get(filename)

    def list(self) -> tuple[str, ...]:
        return tuple(self._files)

    def folder(self, name: str) -> dict[str, Path]:
        return {}


def named_tokenizer(name: str, family: str) -> Any:
    """The class `BertTokenizer` of the family "Bert"."""
    values = {"family": family, "__module__": "martlet", "__doc__": PreTrainedTokenizerFast.__doc__}
    return _OfTokenizers(name, (PreTrainedTokenizerFast,), values)
