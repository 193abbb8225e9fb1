"""`GenerationConfig`: how to generate, and where each value came from. The fields and their rules are fields.py's."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from martlet.errors import ArgumentError, ConfigError, UnsupportedError
from martlet.generation.fields import (
    FIELDS,
    METADATA,
    NOT_SAVED,
    UNSUPPORTED,
    checked,
    is_known,
    refuse_unsupported,
    unknown_field,
)

LIBRARY_DEFAULT = "library default"
CONFIG_NAME = "generation_config.json"
# Of two lengths, the one that a later layer sets is meant, whatever an earlier layer said of the other.
RIVALS = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
OUTPUT_FLAGS = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")


class GenerationMode(StrEnum):
    """The strategies of `generate`, by Hugging Face's names."""

    GREEDY_SEARCH = "greedy_search"
    SAMPLE = "sample"
    ASSISTED_GENERATION = "assisted_generation"
    BEAM_SEARCH = "beam_search"
    BEAM_SAMPLE = "beam_sample"


class GenerationConfig:
    """Every setting of a generation, with Hugging Face's names, defaults and meanings; `fields.FIELDS` lists them.

    Reading a field gives the value that applies: what was set, else the library's default. `max_length` reads None
    when unset, and 20 new tokens apply if `max_new_tokens` is unset too. Most fields also take a list with one value
    a prompt; a field whose own value may be a list (`eos_token_id`, `stop_strings`, `bad_words_ids`,
    `suppress_tokens`, `begin_suppress_tokens`, `forced_eos_token_id`, `exponential_decay_length_penalty`,
    `sequence_bias`) only a list of lists (of dicts, for the last). `seed` is our own field.

    None in the constructor or an assignment leaves a field unset; in `but` and `update`, as in a call of `generate`,
    it turns the field off. ArgumentError for an unknown field or a value against its rule, UnsupportedError for a
    field of Hugging Face's that we do not have, unless set to where it does nothing.
    """

    _values: dict[str, Any]
    _origins: dict[str, str]
    _metadata: dict[str, Any]

    def __init__(self, **fields: Any) -> None:
        self._begin()
        self._put("call", {name: value for name, value in fields.items() if value is not None or not is_known(name)})

    def _begin(self) -> None:
        for name in ("_values", "_origins", "_metadata"):
            object.__setattr__(self, name, {})

    # Reading and writing fields

    def __getattr__(self, name: str) -> Any:
        if name in FIELDS:
            value = self._values.get(name, FIELDS[name].default)
            return list(value) if isinstance(value, list) else value
        if name in METADATA and "_metadata" in self.__dict__:
            return self._metadata.get(name)
        if name in UNSUPPORTED:
            return None
        raise AttributeError(f"GenerationConfig has no field {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIELDS and value is None:
            self._values.pop(name, None)
            self._origins.pop(name, None)
        else:
            self._put("assignment", {name: value}, has_rivals=False)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *FIELDS]

    def _put(self, origin: str, changes: Mapping[str, Any], *, has_rivals: bool = True) -> None:
        """Checks all changes, then makes them."""
        values: dict[str, Any] = {}
        metadata: dict[str, Any] = {}
        for name, value in changes.items():
            if name in FIELDS:
                values[name] = checked(name, value)
                if value is None and not FIELDS[name].may_be_none:
                    values[name] = FIELDS[name].default
            elif name in UNSUPPORTED:
                refuse_unsupported(name, value)
            elif name in METADATA:
                metadata[name] = value
            else:
                raise unknown_field(name)
        merged = {**self._values, **values}
        if has_rivals:
            for setting, rival in RIVALS.items():
                if values.get(setting) is not None and rival not in values:
                    merged.pop(rival, None)
        _check_sampling(merged)
        self._origins.update(dict.fromkeys(values, origin))
        for name in self._origins.keys() - merged.keys():
            del self._origins[name]
        object.__setattr__(self, "_values", merged)
        self._metadata.update(metadata)

    def but(self, origin: str, /, **changes: Any) -> GenerationConfig:
        """A copy with `changes`, each remembered as coming from `origin`. None turns a field off.

        A changed `max_length` (`min_length`) drops a `max_new_tokens` (`min_new_tokens`) that was there before.
        """
        changed = self.copy()
        changed._put(origin, changes)
        return changed

    def update(self, defaults_only: bool = False, **fields: Any) -> dict[str, Any]:
        """Sets the fields among `fields` (`defaults_only`: those still unset), and gives back the rest."""
        if fields.pop("allow_custom_entries", False):
            raise UnsupportedError("allow_custom_entries", "a GenerationConfig holds only fields it knows")
        unused = {name: value for name, value in fields.items() if not is_known(name)}
        skipped = {name: fields[name] for name in fields if defaults_only and name in self._values}
        used = {name: value for name, value in fields.items() if name not in unused and name not in skipped}
        self._put("update", used)
        return unused | skipped

    def copy(self) -> GenerationConfig:
        other = object.__new__(type(self))
        for name in ("_values", "_origins", "_metadata"):
            object.__setattr__(other, name, dict(getattr(self, name)))
        return other

    def __copy__(self) -> GenerationConfig:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> GenerationConfig:
        other = self.copy()
        object.__setattr__(other, "_values", copy.deepcopy(self._values, memo))
        return other

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    # Where values come from

    def origin(self, field: str) -> str:
        """Where the field's value came from: "call", "generation_config.json", "library default" ..."""
        if field not in FIELDS:
            raise unknown_field(field)
        return self._origins.get(field, LIBRARY_DEFAULT)

    def describe(self) -> list[tuple[str, Any, str]]:
        """`(field, value, origin)` of every field that something has set, in the order of `FIELDS`."""
        return [(name, self._values[name], self._origins[name]) for name in FIELDS if name in self._values]

    # One prompt's values

    def row(self, index: int, num_rows: int) -> GenerationConfig:
        """This config for prompt `index` of `num_rows`: lists of one value a prompt give that prompt's. Without any,
        the config itself. ArgumentError if a list's length is not `num_rows`."""
        own: dict[str, Any] = {}
        for name, value in self._values.items():
            if not FIELDS[name].is_per_row(value):
                continue
            if len(value) != num_rows:
                raise ArgumentError(
                    name, f"must have one value for each of {num_rows} prompts", found=f"{len(value)} values"
                )
            own[name] = value[index]
        if not own:
            return self
        row = self.copy()
        for name, value in own.items():
            row._values[name] = FIELDS[name].default if value is None and not FIELDS[name].may_be_none else value
        _check_sampling(row._values, f" row {index}")
        return row

    def get_generation_mode(self, assistant_model: Any = None) -> GenerationMode:
        """The strategy that these settings ask for."""
        if self.num_beams > 1:
            return GenerationMode.BEAM_SAMPLE if self.do_sample else GenerationMode.BEAM_SEARCH
        if assistant_model is not None or self.prompt_lookup_num_tokens is not None:
            return GenerationMode.ASSISTED_GENERATION
        return GenerationMode.SAMPLE if self.do_sample else GenerationMode.GREEDY_SEARCH

    def validate(self, strict: bool = False) -> None:
        """Nothing is left to check: a value against its rule is refused where it is set."""

    # Out and in

    def to_dict(self) -> dict[str, Any]:
        """Every field, None where unset (as Hugging Face's), and the metadata of the file it was read from."""
        return copy.deepcopy({**dict.fromkeys(FIELDS), **self._values, **self._metadata})

    def to_diff_dict(self) -> dict[str, Any]:
        """The fields that were set, and the metadata."""
        return {name: value for name, value in self.to_dict().items() if value is not None}

    def to_json_string(self, use_diff: bool = True, ignore_metadata: bool = False) -> str:
        """`to_diff_dict` (or `to_dict`) as sorted JSON with a newline at its end."""
        fields = self.to_diff_dict() if use_diff else self.to_dict()
        if ignore_metadata:
            fields = {name: value for name, value in fields.items() if name not in METADATA}
        fields = {name: _jsonable(value) for name, value in fields.items()}
        return json.dumps(fields, indent=2, sort_keys=True, default=repr) + "\n"

    def to_json_file(
        self, json_file_path: str | os.PathLike[str], use_diff: bool = True, keys_to_pop: Iterable[str] = ()
    ) -> None:
        """`to_json_string` in a file, replaced whole; `keys_to_pop` are left out. SaveError if the disk refuses."""
        from martlet.formats.files import write_json

        left_out = set(keys_to_pop)
        fields = json.loads(self.to_json_string(use_diff))
        write_json(json_file_path, {name: value for name, value in fields.items() if name not in left_out})

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, GenerationConfig) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"GenerationConfig {self.to_json_string(ignore_metadata=True)}"

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], config_file_name: str = CONFIG_NAME, *, push_to_hub: bool = False
    ) -> None:
        """Writes the fields that were set to `generation_config.json`, as Hugging Face reads it. The folder is made.

        ArgumentError for values a prompt, which belong to a call; SaveError if the disk refuses.
        """
        from martlet.formats.files import save_error, write_json

        if push_to_hub:
            raise UnsupportedError("push_to_hub", "is not supported", remedy="Save, then use `hf upload`.")
        for name, value in self._values.items():
            if FIELDS[name].is_per_row(value):
                raise ArgumentError(name, "must be a single value to be saved", found="one value a prompt")
        fields = {name: _jsonable(value) for name, value in sorted(self.to_diff_dict().items())}
        dropped = NOT_SAVED | {"compile_config"}
        folder = Path(save_directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise save_error(folder, problem) from problem
        write_json(folder / config_file_name, {name: fields[name] for name in fields if name not in dropped})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        config_file_name: str = CONFIG_NAME,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        subfolder: str = "",
        return_unused_kwargs: bool = False,
        **fields: Any,
    ) -> Any:
        """The config in a folder's or a Hub repository's `generation_config.json`; `fields` win over the file's.

        With `return_unused_kwargs` a pair: the config, and those of `fields` that are no fields. HubError without the
        file, ConfigError for what it says wrongly.
        """
        folder = Path(pretrained_model_name)
        path = folder / subfolder / config_file_name
        if not path.is_file():
            from martlet.hub import open_snapshot

            path = open_snapshot(
                pretrained_model_name,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
                subfolder=subfolder,
            ).require(config_file_name)
        return cls.from_file(path)._with_fields(fields, return_unused_kwargs)

    def _with_fields(self, fields: Mapping[str, Any], returns_unused: bool) -> Any:
        unused = {name: value for name, value in fields.items() if not is_known(name)}
        if unused and not returns_unused:
            raise unknown_field(next(iter(unused)))
        config = self.but("call", **{name: value for name, value in fields.items() if name not in unused})
        return (config, unused) if returns_unused else config

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> GenerationConfig:
        """The config in one JSON file. JsonError, ConfigError, UnsupportedError."""
        from martlet.formats.files import read_json

        return cls._from_json(read_json(path), str(path))

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **fields: Any) -> Any:
        """The config that `config_dict` says, as `generation_config.json` would; `fields` win over it.

        With `return_unused_kwargs` a pair: the config, and those of `fields` that are no fields.
        """
        return cls._from_json(config_dict, CONFIG_NAME)._with_fields(fields, return_unused_kwargs)

    @classmethod
    def _from_json(cls, said: Mapping[str, Any], subject: str) -> GenerationConfig:
        unknown = sorted(name for name, value in said.items() if not is_known(name) and value is not None)
        kept = {name: value for name, value in said.items() if value is not None and name not in unknown}
        private = [name for name in unknown if name.startswith("_")]
        if len(private) < len(unknown):
            names = ", ".join(name for name in unknown if name not in private)
            raise ConfigError(subject, "must hold only generation settings", found=names, remedy="Remove the others.")
        config = cls()
        config._put_file(CONFIG_NAME, kept, subject)
        config._metadata.update({name: said[name] for name in private})
        return config

    def _put_file(self, origin: str, fields: Mapping[str, Any], subject: str) -> None:
        try:
            self._put(origin, fields)
        except UnsupportedError:
            raise
        except ArgumentError as problem:
            raise ConfigError(
                f"{subject}: {problem.subject}", problem.rule, found=problem.found, remedy=problem.remedy
            ) from problem

    @classmethod
    def from_model_config(cls, model_config: Any) -> GenerationConfig:
        """The generation settings that older checkpoints keep in `config.json`: a dict, or anything with `to_dict`.

        What the outer config leaves unset is looked for in its "decoder", "generator" or "text_config".
        """
        said = dict(model_config) if isinstance(model_config, Mapping) else dict(model_config.to_dict())
        inner: Any = next((said[name] for name in ("decoder", "generator", "text_config") if said.get(name)), {})
        inner = inner if isinstance(inner, Mapping) else inner.to_dict()
        fields: dict[str, Any] = {}
        for source in (inner, said):
            fields |= {
                name: value
                for name, value in source.items()
                if value is not None and (name in FIELDS or name in UNSUPPORTED)
            }
        config = cls()
        config._put_file("config.json", fields, "config.json")
        if any(config._values.get(flag) for flag in OUTPUT_FLAGS) and not config.return_dict_in_generate:
            config._put("config.json", {"return_dict_in_generate": True})
        config._metadata["_from_model_config"] = True
        return config


def _check_sampling(values: Mapping[str, Any], place: str = "") -> None:
    """ArgumentError for a temperature or top_p of 0 with sampling. Lists of one value a prompt wait for `row`."""
    if values.get("do_sample") is not True:
        return
    for name in ("temperature", "top_p"):
        if (value := values.get(name)) is not None and not isinstance(value, list) and value == 0:
            raise ArgumentError(
                name + place,
                "must be greater than 0 to sample",
                found=value,
                remedy="For greedy decoding set do_sample=False.",
            )


def _jsonable(value: Any) -> Any:
    """Dicts with tuples for keys, which JSON has no form for, as lists of pairs."""
    if isinstance(value, dict) and any(isinstance(key, tuple) for key in value):
        return [[list(key), bias] for key, bias in value.items()]
    return value
