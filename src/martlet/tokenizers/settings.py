"""What the files beside tokenizer.json add to it: names of special tokens, templates, sides and lengths."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken

from martlet.errors import ArgumentError, JsonError, TokenizerError
from martlet.formats.files import read_json

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
UNBOUNDED = int(1e30)  # Hugging Face's "no maximum"

# tokenizer.json does not say which inputs a model takes, nor its padding side, so here a class name is heeded.
_TAKES_TOKEN_TYPES = {
    "Bert", "BertJapanese", "Bertweet", "ConvBert", "DPRContextEncoder", "DPRQuestionEncoder", "Deberta", "DebertaV2",
    "Electra", "Funnel", "LayoutLM", "LayoutLMv2", "Lxmert", "MarkupLM", "MobileBert", "RetriBert", "RoCBert",
    "RoFormer", "SqueezeBert", "XLNet",
}  # fmt: skip
_PADS_LEFT = {"Llama", "CodeLlama", "Cohere", "Gemma", "Siglip2", "XLNet"}

_CONFIG_KEYS = {
    "add_bos_token", "add_eos_token", "add_prefix_space", "chat_template", "clean_up_tokenization_spaces",
    "do_lower_case", "extra_special_tokens", "additional_special_tokens", "legacy", "model_input_names",
    "model_max_length", "padding_side", "split_special_tokens", "strip_accents", "tokenize_chinese_chars",
    "truncation_side", *SPECIAL_NAMES,
}  # fmt: skip


class Files(Protocol):
    """The part of a Snapshot that is used here."""

    def file(self, filename: str) -> Path | None: ...
    def list(self) -> tuple[str, ...]: ...
    def folder(self, name: str) -> dict[str, Path]: ...


@dataclass
class Settings:
    """Everything a tokenizer knows that is not in its tokenizer.json."""

    special_tokens: dict[str, str | AddedToken] = field(default_factory=dict)
    extra_special_tokens: list[str | AddedToken] = field(default_factory=list)
    added_tokens: dict[int, AddedToken] = field(default_factory=dict)
    chat_template: str | dict[str, str] | None = None
    padding_side: str | None = None
    truncation_side: str | None = None
    model_max_length: int = UNBOUNDED
    model_input_names: list[str] | None = None
    clean_up_tokenization_spaces: bool = False
    split_special_tokens: bool = False
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    add_prefix_space: bool | None = None
    legacy: bool | None = None
    tokenizer_class: str = ""
    rest: dict[str, Any] = field(default_factory=dict)  # keys kept only to be saved again

    @property
    def family(self) -> str:
        """The class name without its endings: "Bert" of "BertTokenizerFast"."""
        return self.tokenizer_class.removesuffix("Fast").removesuffix("Tokenizer")

    @property
    def takes_token_types(self) -> bool | None:
        """Whether the model's class takes token_type_ids; None where the class says nothing."""
        if self.family in ("", "PreTrained", "TokenizersBackend"):
            return None
        return self.family in _TAKES_TOKEN_TYPES

    @property
    def pads_left(self) -> bool:
        return self.family in _PADS_LEFT


def read_settings(files: Files, keywords: dict[str, Any], has_tokenizer_json: bool) -> Settings:
    """Settings of a folder, with the caller's keywords over what its files say.

    Keywords that nothing here reads raise ArgumentError; a file that is not what it should be, TokenizerError.
    """
    check_keywords(keywords)
    config = _read_object(files, "tokenizer_config.json")
    special_map = {} if "added_tokens_decoder" in config else _read_object(files, "special_tokens_map.json")
    for key, value in special_map.items():
        config[key] = value
    for key in ("add_bos_token", "add_eos_token"):
        if has_tokenizer_json:  # its post-processor is the truth; only the caller may change it
            config.pop(key, None)
    settings = settings_from({**config, **keywords}, "tokenizer_config.json")
    settings.added_tokens = _declared_tokens(files, config, settings)
    if "chat_template" not in keywords:
        settings.chat_template = _template_files(files) or settings.chat_template
    return settings


def check_keywords(keywords: dict[str, Any]) -> None:
    """Refuse a keyword that no part of a tokenizer reads; names of special tokens end in `_token`."""
    for key, value in keywords.items():
        named_token = key.endswith("_token") and isinstance(value, (str, AddedToken))
        if key not in _CONFIG_KEYS and not named_token:
            near = difflib.get_close_matches(key, sorted(_CONFIG_KEYS | {"gguf_file", "use_fast", "revision"}), 1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(_CONFIG_KEYS))}."
            raise ArgumentError("AutoTokenizer", f"does not take the keyword {key!r}", remedy=remedy)


def refuse_unknown(unknown: Mapping[str, Any], subject: str, call: Callable[..., Any]) -> None:
    """ArgumentError for a keyword that `call` does not name, with the nearest that it does."""
    if unknown:
        name = next(iter(unknown))
        known = [key for key in call.__annotations__ if key not in ("unknown", "return")]
        near = difflib.get_close_matches(name, known, 1)
        remedy = f"Did you mean {near[0]!r}?" if near else ""
        raise ArgumentError(subject, f"does not take the keyword {name!r}", remedy=remedy)


def settings_from(config: dict[str, Any], subject: str) -> Settings:
    """Settings from one flat mapping, as tokenizer_config.json spells it."""
    config = dict(config)
    config.pop("added_tokens_decoder", None)
    result = Settings(tokenizer_class=str(config.pop("tokenizer_class", None) or ""))
    extra = config.pop("additional_special_tokens", None)
    extra = config.pop("extra_special_tokens", None) or extra or []
    if isinstance(extra, dict):
        config.update(extra)
        extra = []
    result.extra_special_tokens = [as_token(token, "extra_special_tokens", subject) for token in _list(extra, subject)]
    for key in list(config):
        named = key in SPECIAL_NAMES or (key.endswith("_token") and isinstance(config[key], (str, dict, AddedToken)))
        if named:
            value = config.pop(key)
            if value is not None:
                result.special_tokens[key] = as_token(value, key, subject)
    result.chat_template = _template(config.pop("chat_template", None), subject)
    for key in ("padding_side", "truncation_side"):
        value = config.pop(key, None)
        if value not in (None, "left", "right"):
            raise TokenizerError(subject, f'{key} must be "left" or "right"', found=repr(value))
        setattr(result, key, value)
    longest = config.pop("model_max_length", None)
    longest = config.pop("max_len", None) if longest is None else longest
    is_number = isinstance(longest, (int, float, type(None))) and not isinstance(longest, bool)
    if not is_number or longest != longest or longest == -math.inf:
        raise TokenizerError(subject, "model_max_length must be a number", found=repr(longest))
    result.model_max_length = UNBOUNDED if longest is None or longest > UNBOUNDED else int(longest)
    for key in ("clean_up_tokenization_spaces", "split_special_tokens"):
        setattr(result, key, bool(config.pop(key, False)))
    for key in ("add_bos_token", "add_eos_token", "add_prefix_space", "legacy"):
        setattr(result, key, config.pop(key, None))
    names = config.pop("model_input_names", None)
    result.model_input_names = None if names is None else [str(name) for name in _list(names, subject)]
    result.rest = config
    return result


def as_token(value: Any, key: str, subject: str) -> str | AddedToken:
    """A token as JSON spells it: a string, or an object with `content` and flags."""
    if isinstance(value, (str, AddedToken)):
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        flags = {name: bool(value[name]) for name in ("lstrip", "rstrip", "single_word", "normalized") if name in value}
        return AddedToken(value["content"], special=bool(value.get("special", True)), **flags)
    raise TokenizerError(subject, f"{key} must be a string or a token object", found=repr(value)[:80])


def _list(value: Any, subject: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise TokenizerError(subject, "must hold a list here", found=repr(value)[:80])
    return list(value)


def _template(value: Any, subject: str) -> str | dict[str, str] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):  # the older spelling of several named templates
        try:
            value = {entry["name"]: entry["template"] for entry in value}
        except (TypeError, KeyError) as problem:
            raise TokenizerError(subject, "a list of chat templates needs objects of name and template") from problem
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise TokenizerError(subject, "chat_template must be text, or named texts", found=type(value).__name__)
    return {str(name): text for name, text in value.items()}


def _read_object(files: Files, filename: str) -> dict[str, Any]:
    path = files.file(filename)
    if path is None:
        return {}
    try:
        return read_json(path)
    except JsonError as problem:
        raise TokenizerError(problem.subject, problem.rule, found=problem.found, remedy=problem.remedy) from problem


def _declared_tokens(files: Files, config: dict[str, Any], settings: Settings) -> dict[int, AddedToken]:
    """Added tokens that tokenizer_config.json, or the older added_tokens.json, gives ids to."""
    tokens: dict[int, AddedToken] = {}
    listed = config.get("added_tokens_decoder")
    if listed is not None:
        if not isinstance(listed, dict):
            raise TokenizerError("tokenizer_config.json", "added_tokens_decoder must map ids to tokens")
        for number, value in listed.items():
            token = as_token(value, "added_tokens_decoder", "tokenizer_config.json")
            tokens[_id(number)] = token if isinstance(token, AddedToken) else AddedToken(token, normalized=False)
        return tokens
    special = {str(token) for token in [*settings.special_tokens.values(), *settings.extra_special_tokens]}
    for content, number in _read_object(files, "added_tokens.json").items():
        is_special = content in special
        tokens[_id(number)] = AddedToken(content, special=is_special, normalized=not is_special)
    return tokens


def _id(number: Any) -> int:
    try:
        return int(number)
    except (TypeError, ValueError) as problem:
        raise TokenizerError("added tokens", "an id must be a whole number", found=repr(number)) from problem


def _template_files(files: Files) -> str | dict[str, str] | None:
    """chat_template.jinja, chat_template.json and additional_chat_templates/*.jinja."""
    templates: dict[str, str] = {}
    main = files.file("chat_template.jinja")
    if main is not None:
        templates["default"] = _read_text(main)
    elif (older := files.file("chat_template.json")) is not None:
        found = _template(_read_object(files, older.name).get("chat_template"), older.name)
        if isinstance(found, dict):
            templates.update(found)
        elif found is not None:
            templates["default"] = found
    if main is not None:  # others stand beside it only
        for name, path in sorted(files.folder("additional_chat_templates").items()):
            if name.endswith(".jinja"):
                templates[name.removesuffix(".jinja")] = _read_text(path)
    if list(templates) == ["default"]:
        return templates["default"]
    return templates or None


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as problem:
        raise TokenizerError(path.name, "must be UTF-8 text", found=f"byte {problem.start}") from problem
