"""`Config`: a config.json as its owner knows it, with attribute access and the `Arch` it leads to."""

from __future__ import annotations

import copy
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from martlet.arch import Arch, Parts
from martlet.errors import ConfigError
from martlet.families.labels import read_id2label, read_label2id, with_labels
from martlet.families.registry import Family, find_family
from martlet.formats.files import write_json

_OWN = ("_values", "_harmless", "_arch", "name_or_path")


class Config:
    """The values of one config.json. Attributes read and write them; `arch` is what they mean, checked when asked.

    Names of other families are understood: `config.hidden_size` works on GPT-2, whose key is `n_embd`.
    """

    _values: dict[str, Any]
    _harmless: tuple[str, ...]
    _arch: Arch | None
    name_or_path: str  # where it was read from; "" for one made by hand

    def __init__(
        self, values: Mapping[str, Any], *, harmless_config_keys: Sequence[str] = (), name_or_path: str = ""
    ) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError("config.json", "must be an object", found=type(values).__name__)
        object.__setattr__(self, "_values", copy.deepcopy(dict(values)))
        object.__setattr__(self, "_harmless", tuple(harmless_config_keys))
        object.__setattr__(self, "_arch", None)
        object.__setattr__(self, "name_or_path", name_or_path)

    @property
    def family(self) -> Family:
        return find_family(self._values)

    @property
    def arch(self) -> Arch:
        """The architecture; raises `ConfigError` for a key that is missing, impossible or not understood."""
        if self._arch is None:
            object.__setattr__(self, "_arch", self.family.arch(self._values, self._harmless))
        assert self._arch is not None
        return self._arch

    @property
    def parts(self) -> Parts:
        """What the checkpoint's class has besides the body, by "architectures"."""
        return self.family.parts_of(self._values, self.arch, self.num_labels)

    @property
    def id2label(self) -> dict[int, str]:
        """Names of a head's labels by number; LABEL_0 and so on where the file has none."""
        return read_id2label(self._values)

    @property
    def label2id(self) -> dict[str, int]:
        return read_label2id(self._values)

    @property
    def num_labels(self) -> int:
        """Labels of a head; as in Hugging Face 2 where the file does not say."""
        return len(self.id2label)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _OWN:
            raise AttributeError(name)
        if name == "_name_or_path":
            return self.name_or_path
        if name in self._values:
            return self._values[name]
        if _RENAMED.get(name) in self._values:
            return self._values[_RENAMED[name]]
        if name == "num_hidden_layers":
            return self.arch.num_layers
        if name == "tie_word_embeddings":
            return self.arch.tied
        if name in Arch.__dataclass_fields__ and self._values.get("model_type") is not None:
            return getattr(self.arch, name)
        if name in _ABSENT:
            return _ABSENT[name]
        near = difflib.get_close_matches(name, list(self._values), 1)
        raise AttributeError(f"config has no {name!r}" + (f"; is {near[0]!r} meant?" if near else ""))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("name_or_path", "_name_or_path"):
            object.__setattr__(self, "name_or_path", str(value))
            return
        object.__setattr__(self, "_values", _with(self._values, {name: value}))
        object.__setattr__(self, "_arch", None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]  # values can change

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        return f"Config {self.to_json_string()}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Config:
        return self.but()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._values, self._harmless, self.name_or_path)

    def get(self, name: str, default: Any = None) -> Any:
        """The file's value for a key, or the default."""
        return self._values.get(name, default)

    def but(self, **changes: Any) -> Config:
        """A copy with some keys set."""
        values = _with(self._values, changes)
        return Config(values, harmless_config_keys=self._harmless, name_or_path=self.name_or_path)

    def update(self, changes: Mapping[str, Any]) -> None:
        """Sets some keys."""
        for name, value in changes.items():
            setattr(self, name, value)

    def get_text_config(self, decoder: bool = False, encoder: bool = False) -> Config:
        """The part that is about text: all of it."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """A copy of the values, as config.json has them."""
        return copy.deepcopy(self._values)

    to_diff_dict = to_dict

    def to_json_string(self) -> str:
        return json.dumps(self._values, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes config.json into `folder`, made if absent; the file is replaced whole or not at all."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "config.json", self._values)


_ABSENT: dict[str, Any] = {
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "is_encoder_decoder": False,
    "architectures": None,
    "torch_dtype": None,
    "dtype": None,
    "model_type": None,
    "problem_type": None,
    "rope_scaling": None,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "use_return_dict": True,
    "use_cache": True,
}
# One value under the two names it has had.
_RENAMED = {"torch_dtype": "dtype", "dtype": "torch_dtype", "rope_scaling": "rope_parameters"}


def _with(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` also lies in `rope_parameters`, where today's files have it and where it is read first."""
    changed = with_labels(values, changes)
    table = changed.get("rope_parameters")
    if "rope_theta" in changes and "rope_parameters" not in changes and isinstance(table, dict):
        changed["rope_parameters"] = {**table, "rope_theta": changes["rope_theta"]}
    return changed


def _rebuild(values: dict[str, Any], harmless: tuple[str, ...], name_or_path: str) -> Config:
    return Config(values, harmless_config_keys=harmless, name_or_path=name_or_path)
