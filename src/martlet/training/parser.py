"""`HfArgumentParser`: the fields of dataclasses as options of a command line, JSON or YAML, under argparse's rules."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from martlet.errors import ArgumentError, UnsupportedError
from martlet.formats.files import read_json

_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


class HfArgumentParser(argparse.ArgumentParser):
    """Options `--field` of one or several dataclasses, whose defaults and types they have.

    A bool may stand alone (`--do_train`) or with a word (`--do_train false`); one that is True by default also has
    `--no_field`. A list takes several words. `field(metadata={"help": ..., "aliases": [...]})` is heeded.
    """

    def __init__(self, dataclass_types: Any = None, **keywords: Any) -> None:
        keywords.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(**keywords)
        given = () if dataclass_types is None else dataclass_types
        is_one = isinstance(given, type)
        self.dataclass_types: list[Any] = [given] if is_one else list(given)
        for kind in self.dataclass_types:
            if not dataclasses.is_dataclass(kind):
                raise ArgumentError("HfArgumentParser", "needs dataclasses", found=repr(kind))
            self._add(kind)

    def _add(self, kind: Any) -> None:
        named = getattr(kind, "_argument_group_name", None)
        group: Any = self.add_argument_group(named) if named else self
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.init and field.name not in getattr(kind, "__not_options__", ()):
                _add_field(group, field, hints[field.name])

    def parse_args_into_dataclasses(
        self,
        args: Sequence[str] | None = None,
        return_remaining_strings: bool = False,
        look_for_args_file: bool = True,
        args_filename: str | None = None,
        args_file_flag: str | None = None,
    ) -> tuple[Any, ...]:
        """One object a dataclass, from `args` (sys.argv). A file of arguments comes before them, so that they win.

        Such a file is `args_filename`, one after `args_file_flag`, or beside the script with the ending .args. With
        `return_remaining_strings` what nobody took comes last; otherwise it is an ArgumentError.
        """
        words = list(sys.argv[1:] if args is None else args)
        if args_file_flag is not None:
            finder = argparse.ArgumentParser(add_help=False)
            finder.add_argument(args_file_flag, type=str, action="append", dest="files")
            found, words = finder.parse_known_args(words)
            words = [word for name in found.files or () for word in Path(name).read_text().split()] + words
        beside = Path(sys.argv[0]).with_suffix(".args") if look_for_args_file and sys.argv and sys.argv[0] else None
        first = Path(args_filename) if args_filename else beside
        if first is not None and first.is_file():
            words = first.read_text().split() + words
        namespace, rest = self.parse_known_args(words)
        values = vars(namespace)
        made: list[Any] = [self._make(kind, values) for kind in self.dataclass_types]
        if left := {key: value for key, value in values.items() if key not in self._names()}:
            made.append(argparse.Namespace(**left))
        if return_remaining_strings:
            return (*made, rest)
        if rest:
            raise ArgumentError("HfArgumentParser", "was given words that no option takes", found=" ".join(rest))
        return tuple(made)

    def parse_dict(self, args: Mapping[str, Any], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """One object a dataclass, from a mapping; ArgumentError for a key of none, unless they are allowed."""
        if not allow_extra_keys and (unknown := sorted(set(args) - self._names())):
            raise ArgumentError("HfArgumentParser", "was given keys that no dataclass has", found=", ".join(unknown))
        return tuple(self._make(kind, args) for kind in self.dataclass_types)

    def parse_json_file(self, json_file: Any, allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """`parse_dict` of a JSON file."""
        return self.parse_dict(read_json(json_file), allow_extra_keys)

    def parse_yaml_file(self, yaml_file: Any, allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """`parse_dict` of a YAML file."""
        import yaml

        try:
            found = yaml.safe_load(Path(yaml_file).read_text(encoding="utf-8"))
        except yaml.YAMLError as problem:
            raise ArgumentError(str(yaml_file), "must be YAML", found=" ".join(str(problem).split())) from problem
        if not isinstance(found, dict):
            raise ArgumentError(str(yaml_file), "must be a YAML mapping", found=type(found).__name__)
        return self.parse_dict(found, allow_extra_keys)

    def _names(self) -> set[str]:
        return {field.name for kind in self.dataclass_types for field in dataclasses.fields(kind) if field.init}

    def _make(self, kind: Any, values: Mapping[str, Any]) -> Any:
        known = {field.name for field in dataclasses.fields(kind) if field.init}
        return kind(**{name: value for name, value in values.items() if name in known})


def _add_field(group: Any, field: dataclasses.Field[Any], hint: Any) -> None:
    details: dict[str, Any] = dict(field.metadata)
    names = [f"--{field.name}", *([f"--{field.name.replace('_', '-')}"] if "_" in field.name else [])]
    aliases = details.pop("aliases", [])
    names += [aliases] if isinstance(aliases, str) else list(aliases)
    options: dict[str, Any] = {"help": details.get("help"), "dest": field.name}
    options["help"] = options["help"] and options["help"].replace("%", "%%").replace("%%%%", "%%")
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    is_required = default is dataclasses.MISSING
    options |= {"required": True} if is_required else {"default": default}
    hint, is_optional = _without_none(hint, field.name)
    if hint is bool:
        # a plain bool is off unless it is named; one that may be None is told apart from False
        if is_required:
            options = {**options, "required": False, "default": False}
        group.add_argument(*names, **options, type=_read_bool, nargs="?", const=True)
        if default is True and not is_optional:
            off = [f"--no_{field.name}", f"--no-{field.name.replace('_', '-')}"]
            group.add_argument(*dict.fromkeys(off), action="store_false", dest=field.name, default=argparse.SUPPRESS)
        return
    if isinstance(hint, type) and issubclass(hint, Enum):
        options["choices"] = [each.value for each in hint]
        options["type"] = _reader_of(options["choices"])
        if isinstance(default, Enum):
            options["default"] = default.value
    elif get_origin(hint) is Literal:
        options["choices"] = list(get_args(hint))
        options["type"] = _reader_of(options["choices"])
    elif get_origin(hint) in (list, tuple, Sequence) or hint is list:
        inner = [each for each in get_args(hint) if each is not Ellipsis]
        options |= {"nargs": "+", "type": inner[0] if inner and callable(inner[0]) else str}
    elif hint is dict or get_origin(hint) in (dict, Mapping):
        options["type"] = _read_dict
    else:
        options["type"] = hint if isinstance(hint, type) and hint is not object else str
    group.add_argument(*names, **options)


def _without_none(hint: Any, name: str) -> tuple[Any, bool]:
    """A type without its None, and whether it had one. Of str or something else, which is tried last, str."""
    if get_origin(hint) not in (Union, types.UnionType):
        return (str if hint is Any else hint), False
    parts = [each for each in get_args(hint) if each is not type(None)]
    is_optional = len(parts) < len(get_args(hint))
    if len(parts) == 1:
        return parts[0], is_optional
    if bool in parts and len(parts) == 2 and str in parts:
        return str, is_optional
    for kind in (dict, str, float, int):
        if kind in parts or (kind is dict and any(get_origin(each) is dict for each in parts)):
            return kind, is_optional
    raise UnsupportedError(f"HfArgumentParser: {name}", "has a type that no word can be read as", found=hint)


def _read_bool(word: Any) -> bool:
    if isinstance(word, bool):
        return word
    if word.lower() in _TRUE:
        return True
    if word.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"must be true or false, yes or no, 1 or 0; found {word!r}")


def _read_dict(word: Any) -> Any:
    if isinstance(word, str) and word.lstrip().startswith("{"):
        try:
            return json.loads(word)
        except json.JSONDecodeError as problem:
            raise argparse.ArgumentTypeError(f"must be JSON; {problem}") from problem
    return word


def _reader_of(choices: Iterable[Any]) -> Any:
    named = {str(each): each for each in choices}

    def read(word: Any) -> Any:
        return named.get(str(word), word)

    return read
