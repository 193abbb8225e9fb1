"""A tokenizer to a folder: tokenizer.json, tokenizer_config.json and templates, each written aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from martlet.errors import ArgumentError, SaveError
from martlet.formats.files import save_error, write_aside, write_json
from martlet.tokenizers.fast import as_json

if TYPE_CHECKING:
    from martlet.tokenizers.tokenizer import Tokenizer
    from martlet.tokenizers.vocabulary import Vocabulary

_PRIVATE = ("name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "auto_map", "chat_template")


def save_tokenizer(tokenizer: Tokenizer, folder: Path, prefix: str | None = None) -> tuple[str, ...]:
    """Write the files and give their paths. SaveError leaves what was there before as it was."""
    if folder.is_file():
        raise SaveError(str(folder), "must be a folder", found="a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise save_error(folder, problem) from problem
    start = f"{prefix}-" if prefix else ""
    texts = _templates(tokenizer.chat_template, start)
    texts[f"{start}tokenizer.json"] = as_json(tokenizer._backend, pretty=True)
    config = folder / f"{start}tokenizer_config.json"
    written = []
    for name, text in texts.items():
        path = folder / name
        if path.parent != folder:
            path.parent.mkdir(exist_ok=True)
        with write_aside(path) as file:
            file.write(text.encode("utf-8"))
        written.append(str(path))
    write_json(config, config_of(tokenizer))
    return (str(config), *written)


def save_vocabulary(tokenizer: Vocabulary, folder: Path, prefix: str | None = None) -> tuple[str, ...]:
    """Write what the model part of `tokenizers` is made of, each file aside, and give the paths."""
    written = []
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = tokenizer._backend.model.save(scratch, prefix)
            for name in map(Path, files):
                with write_aside(folder / name.name) as file:
                    file.write(name.read_bytes())
                written.append(str(folder / name.name))
        except OSError as problem:
            raise problem if isinstance(problem, SaveError) else save_error(folder, problem) from problem
    return tuple(written)


def _templates(template: str | dict[str, str] | None, start: str) -> dict[str, str]:
    named = {"default": template} if isinstance(template, str) else dict(template or {})
    texts = {}
    for name, text in named.items():
        if name == "default":
            texts[f"{start}chat_template.jinja"] = text
            continue
        if not name or name.startswith(".") or any(char in name for char in '/\\:"\0'):
            raise ArgumentError("chat template", "a template's name must be a file name", found=repr(name))
        texts[f"{start}additional_chat_templates/{name}.jinja"] = text
    return texts


def config_of(tokenizer: Any) -> dict[str, Any]:
    """What tokenizer_config.json says of a tokenizer."""
    settings = tokenizer.settings
    config = {key: value for key, value in settings.rest.items() if key not in _PRIVATE and _is_json(value)}
    config |= {
        "model_max_length": tokenizer.model_max_length,
        "model_input_names": tokenizer.model_input_names,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
        # Any other class of Hugging Face's would rebuild the tokenizer instead of reading tokenizer.json.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "backend": "tokenizers",
    }
    if tokenizer.split_special_tokens:
        config["split_special_tokens"] = True
    config |= {name: _plain(token) for name, token in settings.special_tokens.items()}
    if settings.extra_special_tokens:
        config["extra_special_tokens"] = [str(token) for token in settings.extra_special_tokens]
    return dict(sorted(config.items()))


def _plain(token: str | AddedToken) -> str:
    return str(token)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
