"""AutoTokenizer: a name, a folder or a GGUF file to a Tokenizer."""

from __future__ import annotations

import logging
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from martlet.errors import ArgumentError, HubError, TokenizerError
from martlet.hub import Snapshot, open_snapshot
from martlet.tokenizers.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


class AutoTokenizer:
    """Makes tokenizers; never one itself."""

    def __init__(self) -> None:
        raise ArgumentError("AutoTokenizer", "is not made itself", remedy="Use AutoTokenizer.from_pretrained(name).")

    @staticmethod
    def from_pretrained(
        name_or_path: str | PathLike[str],
        *inputs: Any,
        use_fast: bool = True,
        gguf_file: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool | None = None,
        force_download: bool = False,
        subfolder: str = "",
        trust_remote_code: bool = False,
        config: Any = None,
        **keywords: Any,
    ) -> Tokenizer:
        """A tokenizer from a Hub id, a folder, or a .gguf file (also by `gguf_file`, a file of the folder).

        Further keywords override what the files say: `padding_side`, `model_max_length`, `pad_token`,
        `add_bos_token`, `chat_template`... An unknown one is an ArgumentError. `config` and `use_fast` are taken
        because scripts pass them, and change nothing: every tokenizer here is made from its own files, and is
        fast. `trust_remote_code` runs nothing.
        """
        if inputs:
            raise ArgumentError("AutoTokenizer", "takes one name or path; the rest goes by keyword", found=inputs)
        if trust_remote_code:
            _log.info("trust_remote_code: no code of %s is run", name_or_path)
        files = open_snapshot(
            name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            subfolder=subfolder,
        )
        name = fspath(name_or_path)
        gguf = _gguf_path(files, gguf_file)
        if gguf is None:
            return Tokenizer.from_snapshot(files, name, **keywords)
        from martlet.formats.gguf import GgufFile

        with GgufFile(gguf) as source:
            return Tokenizer.from_gguf(source, name, **keywords)


def _gguf_path(files: Snapshot, gguf_file: str | None) -> Path | None:
    if gguf_file is not None:
        path = files.file(gguf_file)
        if path is None:
            found = ", ".join(file for file in files.list() if file.endswith(".gguf")) or "no .gguf file"
            raise HubError(files.name, f"has no file {gguf_file!r}", found=found)
        return path
    if files.single is not None:
        if files.single.suffix.lower() != ".gguf":
            raise TokenizerError(
                files.name,
                "must be a folder, a Hub id or a .gguf file",
                remedy=f"Pass its folder, {files.single.parent}.",
            )
        return files.single
    if files.root is None or any(files.file(name) for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    from martlet.formats.shards import gguf_models

    models = [name for name in gguf_models(files.list()) if "/" not in name]
    return files.file(models[0]) if len(models) == 1 else None
