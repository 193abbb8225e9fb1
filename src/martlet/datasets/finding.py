"""Which files make up which split: patterns, names that tell their split, and the `configs:` of a README."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from martlet.datasets.files import DataFile
from martlet.errors import ArgumentError, DataFileError, DatasetNotFoundError

NOT_DATA = frozenset(
    [
        "README.md",
        "config.json",
        "dataset_info.json",
        "dataset_infos.json",
        "dummy_data.zip",
        "dataset_dict.json",
        "state.json",
    ]
)
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(?:.*/)?data/(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_SEPARATORS = r"[-._ 0-9]"
NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)


@dataclass(frozen=True)
class Config:
    """One of a dataset's configurations: files by split, and options for the format that reads them."""

    name: str = "default"
    data_files: Any = None
    data_dir: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    features: Any = None
    is_default: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)  # what the card says of it: splits, sizes


def by_split(patterns: Any) -> dict[str, list[str]]:
    """`data_files=` in its one form: patterns by split. A string or a list is "train"."""
    if isinstance(patterns, (str, os.PathLike)):
        return {"train": [os.fspath(patterns)]}
    if not isinstance(patterns, Iterable) or (isinstance(patterns, Sized) and not len(patterns)):
        rule = "must be a path, a list of paths or paths by split"
        raise ArgumentError("data_files", rule, found=repr(patterns)[:80])
    if isinstance(patterns, Mapping):
        return {str(split): _listed(value) for split, value in patterns.items()}
    patterns = list(patterns)
    if not any(isinstance(each, Mapping) for each in patterns):
        return {"train": _listed(patterns)}
    found: dict[str, list[str]] = {}
    for each in patterns:
        if not isinstance(each, Mapping) or set(each) != {"split", "path"}:
            raise ArgumentError("data_files", "each entry must be {'split': ..., 'path': ...}", found=repr(each))
        if str(each["split"]) in found:
            raise ArgumentError("data_files", "must name each split once", found=repr(each["split"]))
        found[str(each["split"])] = _listed(each["path"])
    return found


def _listed(value: Any) -> list[str]:
    several = [value] if isinstance(value, (str, os.PathLike)) else list(value)
    for each in several:
        if not isinstance(each, (str, os.PathLike)):
            raise ArgumentError("data_files", "must be paths", found=repr(each)[:80])
    return [os.fspath(each) for each in several]


def resolve(pattern: str, base: str, storage_options: Mapping[str, Any]) -> list[DataFile]:
    """The files of a pattern, relative to `base`: * in a name, ** through folders. DatasetNotFoundError if none."""
    whole = pattern if _is_absolute(pattern) else _joined(base, pattern)
    if "://" not in whole:
        paths = _local(whole)
    else:
        paths = _remote(whole, storage_options)
    kept = [path for path in paths if _is_wanted(path, whole)]
    if not kept:
        raise DatasetNotFoundError(whole, "no file matches", found=_nearby(whole))
    return [DataFile(path, storage_options=storage_options if "://" in path else {}) for path in kept]


def _is_absolute(pattern: str) -> bool:
    return "://" in pattern or os.path.isabs(os.path.expanduser(pattern))


def _joined(base: str, pattern: str) -> str:
    return f"{base.rstrip('/')}/{pattern}" if "://" in base else os.path.join(base, pattern)


def _local(pattern: str) -> list[str]:
    whole = os.path.abspath(os.path.expanduser(pattern))
    if not any(sign in pattern for sign in "*?["):
        return [whole] if os.path.isfile(whole) else []
    import fsspec

    fs = fsspec.filesystem("file")
    return sorted(path for path in fs.glob(whole) if os.path.isfile(path))


def _remote(pattern: str, storage_options: Mapping[str, Any]) -> list[str]:
    first, *hops = pattern.split("::")
    if not any(sign in first for sign in "*["):
        return [pattern]
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(pattern, **storage_options)
        found = fs.glob(path, detail=True)
    except (OSError, ValueError) as problem:
        raise DatasetNotFoundError(pattern, "cannot be listed", found=str(problem)[:200]) from problem
    protocol = first.split("://")[0]
    names = sorted(name for name, about in found.items() if about["type"] == "file")
    return ["::".join([name if "://" in name else f"{protocol}://{name.lstrip('/')}", *hops]) for name in names]


def _is_wanted(path: str, pattern: str) -> bool:
    """Not a README, nor hidden, unless the pattern itself names such a thing."""
    name = posixpath.basename(path)
    if name in NOT_DATA and name != posixpath.basename(pattern):
        return False
    return _specials(path, ".") == _specials(pattern, ".") and _specials(_folder(path), "__") == _specials(
        _folder(pattern), "__"
    )


def _folder(path: str) -> str:
    return posixpath.dirname(path)


def _specials(path: str, start: str) -> int:
    return sum(part.startswith(start) and set(part) != {"."} for part in path.split("/"))


def _nearby(pattern: str) -> str:
    folder = Path(pattern).parent
    names = sorted(entry.name for entry in folder.iterdir())[:8] if folder.is_dir() else []
    return f"in {folder}: {', '.join(names)}" if names else "nothing there"


def resolve_all(
    patterns: Mapping[str, Sequence[str]], base: str, storage_options: Mapping[str, Any]
) -> dict[str, list[DataFile]]:
    """The files of each split, in the order of the patterns; each once, unless it is itself listed more than once."""
    found: dict[str, list[DataFile]] = {}
    for split, several in patterns.items():
        files: list[DataFile] = []
        seen: set[str] = set()
        for number, pattern in enumerate(several):
            more = resolve(pattern, base, storage_options)
            is_again = len(more) == 1 and pattern in several[:number]
            files += [file for file in more if is_again or file.url not in seen]
            seen.update(file.url for file in more)
        found[split] = files
    return found


def guess_splits(paths: Iterable[str]) -> dict[str, list[str]]:
    """Splits by the names of folders and files, as Hugging Face guesses them: data/train-00000-of-00001.parquet,
    train/a.csv, my_dev.jsonl, ...; all are "train" where no name tells. Paths are relative to the dataset's folder.
    """
    paths = sorted(path for path in paths if _is_wanted(path, "**"))
    shards: dict[str, list[str]] = {}
    for path in paths:
        found = _SHARD.fullmatch(path)
        if found and path.count("/") == 1:
            shards.setdefault(found["split"], []).append(path)
    if shards:
        usual = [split for split in KEYWORDS if split in shards]
        return {split: shards[split] for split in usual + sorted(set(shards) - set(usual))}
    for matches in (_in_folder, _in_name):
        guessed = {split: [path for path in paths if matches(path, words)] for split, words in KEYWORDS.items()}
        guessed = {split: group for split, group in guessed.items() if group}
        if guessed:
            return guessed
    return {"train": paths} if paths else {}


def _matcher(words: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"(?:.*{_SEPARATORS})?(?:{'|'.join(words)})(?:{_SEPARATORS}.*)?")


def _in_folder(path: str, words: Sequence[str]) -> bool:
    return any(_matcher(words).fullmatch(part) for part in path.split("/")[:-1])


def _in_name(path: str, words: Sequence[str]) -> bool:
    name = posixpath.basename(path)
    start = re.compile(rf"(?:.*{_SEPARATORS})?(?:{'|'.join(words)}){_SEPARATORS}.*")
    return start.fullmatch(name) is not None


def read_configs(readme: str, where: str) -> list[Config]:
    """The `configs:` of a dataset card's front matter, none if it has none. DataFileError if damaged."""
    block = re.match(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", readme.replace("\r\n", "\n"), re.DOTALL)
    if block is None:
        return []
    import yaml

    try:
        card = yaml.safe_load(block[1])
    except yaml.YAMLError as problem:
        raise DataFileError(
            where, "the README's front matter must be YAML", found=str(problem).split("\n")[0]
        ) from problem
    configs = card.get("configs") if isinstance(card, Mapping) else None
    if configs is None:
        about = _card_info(card, "default") if isinstance(card, Mapping) else {}
        return [Config(features=about.get("features"), about=about)] if about else []
    if not isinstance(configs, list):
        raise DataFileError(where, "configs: in the README must be a list", found=repr(configs)[:80])
    return [_config(each, card, where) for each in configs]


def _config(each: Any, card: Mapping[str, Any], where: str) -> Config:
    if not isinstance(each, Mapping) or not isinstance(each.get("config_name"), str):
        raise DataFileError(where, "each of configs: needs a config_name", found=repr(each)[:80])
    rest = {
        name: value
        for name, value in each.items()
        if name not in ("config_name", "data_files", "data_dir", "default", "drop")
    }
    if each.get("data_files") is not None:
        by_split(each["data_files"])
    name = each["config_name"]
    about = _card_info(card, name)
    return Config(
        name=name,
        data_files=each.get("data_files"),
        data_dir=each.get("data_dir"),
        options={k: v for k, v in rest.items() if k not in ("features", "version", "description")},
        features=rest.get("features") or about.get("features"),
        is_default=bool(each.get("default")),
        about=about,
    )


def _card_info(card: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    infos = card.get("dataset_info")
    for info in infos if isinstance(infos, list) else [infos] if infos else []:
        if isinstance(info, Mapping) and info.get("config_name", "default") == name:
            return info
    return {}


def pick(configs: Sequence[Config], name: str | None, where: str) -> Config:
    """The configuration asked for, or the default: the only one, or the one named or marked so; else ArgumentError."""
    if name is not None:
        found = next((config for config in configs if config.name == name), None)
        if found is None:
            raise ArgumentError(
                where, f"has no configuration {name!r}", found=", ".join(c.name for c in configs) or "none"
            )
        return found
    if len(configs) == 1:
        return configs[0]
    defaults = [config for config in configs if config.name == "default" or config.is_default]
    if len(defaults) == 1:
        return defaults[0]
    remedy = f"Name one: load_dataset({where!r}, {configs[0].name!r})."
    rule = "has several default configurations" if defaults else "has several configurations"
    raise ArgumentError(where, rule, found=", ".join(c.name for c in defaults or configs), remedy=remedy)


def list_folder(folder: str) -> list[str]:
    """Every file below a local folder, relative to it."""
    found = []
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        found += [os.path.relpath(os.path.join(top, name), folder).replace(os.sep, "/") for name in sorted(names)]
    return found
