"""Converted splits in the cache, and as the Dataset a user holds."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.datasets.features import Features
from martlet.datasets.slicing import ReadInstruction
from martlet.errors import CacheError

if TYPE_CHECKING:
    from martlet.datasets.load import Converted, Found


def cached(
    key: str,
    make: Callable[[Path], tuple[Features, int]],
    what: str,
    cache_dir: str | os.PathLike[str] | None,
    *,
    is_forced: bool = False,
) -> Converted:
    """What `make` wrote under this key, or writes now: aside, and renamed when it is whole."""
    from martlet.datasets.load import Converted

    top = Path(cache_dir) if cache_dir else Path(os.environ.get("MARTLET_CACHE", "~/.cache/martlet/datasets")).expanduser()
    folder = top / "sources" / key
    if is_forced:
        shutil.rmtree(folder, ignore_errors=True)
    if not (folder / "about.json").is_file():
        aside = top / "sources" / f".{key}.{secrets.token_hex(4)}"
        try:
            aside.mkdir(parents=True)
        except OSError as problem:
            raise CacheError(str(top), "cannot be written", found=str(problem), remedy="Pass cache_dir=.") from problem
        try:
            features, num_rows = make(aside / "data.arrow")
            about = {"what": what, "num_rows": num_rows, "features": features.to_dict()}
            (aside / "about.json").write_text(json.dumps(about), "utf-8")
            try:
                os.replace(aside, folder)
            except OSError:
                if not (folder / "about.json").is_file():  # another process was first
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    about = json.loads((folder / "about.json").read_text("utf-8"))
    return Converted([folder / "data.arrow"], Features.from_dict(about["features"]), about["num_rows"])


def open_splits(found: Found, ready: dict[str, Converted], asked: ReadInstruction | None, *, in_memory: bool) -> Any:
    raise NotImplementedError
