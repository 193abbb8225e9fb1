"""A checkpoint opened: its config, its weights, its family. Finds the files; reads no weight until asked."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from martlet.arch import Arch, Parts
from martlet.bits import asked_width
from martlet.errors import ArgumentError, ConfigError, FormatError, HubError, UnsupportedError
from martlet.families import Config, find_gguf_family, gguf_dialect
from martlet.families.multimodal import text_part
from martlet.formats import open_weights
from martlet.formats.files import read_json
from martlet.formats.gguf import MAGIC
from martlet.formats.packed import KEY as PACKED_KEY
from martlet.formats.packed import PackedBlocks, is_packed, read_types
from martlet.formats.shards import gguf_models, open_gguf, open_shards
from martlet.formats.tensors import TensorSource
from martlet.hub import Snapshot, open_snapshot
from martlet.weights import Piece, check, locate

logger = logging.getLogger("martlet")
HUB_KEYWORDS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
SINGLE = {"safetensors": "model.safetensors", "pickle": "pytorch_model.bin"}
INDEX = {"safetensors": "model.safetensors.index.json", "pickle": "pytorch_model.bin.index.json"}
LOADING = ("gguf_file", "config", "trust_remote_code", "harmless_config_keys", "device_map", "use_safetensors")
# What these ask for is what always happens: mapped loading, resumed downloads, no code run, one attention.
FULFILLED = ("_fast_init", "low_cpu_mem_usage", "resume_download", "code_revision", "weights_only")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")  # one result, ours
REFUSED = {
    "load_in_8bit": "Pass quantize='int8'.",
    "load_in_4bit": "Pass quantize='int4'.",
    "ignore_mismatched_sizes": "Weights of another shape would have to be made up.",
    "variant": "Give the folder or revision that holds the files.",
    "state_dict": "Call load_state_dict on the model.",
    "max_memory": "Pass device_map as a dict of module prefix to device.",
    "offload_folder": "Weights stay memory-mapped: nothing has to be offloaded.",
    "offload_state_dict": "Weights stay memory-mapped: nothing has to be offloaded.",
    "offload_buffers": "Weights stay memory-mapped: nothing has to be offloaded.",
    "tp_plan": "Models run in one process.",
    "distributed_config": "Models run in one process.",
    "key_mapping": "Families hold the rules for names.",
    "from_tf": "Only PyTorch and GGUF checkpoints are read.",
    "from_flax": "Only PyTorch and GGUF checkpoints are read.",
    "proxies": "Set HTTPS_PROXY in the environment.",
    "mirror": "Set HF_ENDPOINT in the environment.",
    "adapter_kwargs": "Adapters are not read yet.",
    "device": "Pass device_map, or call to() on the model.",
}
_said: set[str] = set()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Files of one revision and what they say. `gguf` is set where a GGUF file, or all its parts, hold everything.

    `types` are the block types of matrices that a folder keeps as bytes; the config no longer speaks of them.
    """

    snapshot: Snapshot
    config: Config
    gguf: TensorSource | None
    types: Mapping[str, str] = field(default_factory=dict)

    def open_weights(self, use_safetensors: bool | None = None) -> TensorSource:
        """The weights, memory-mapped: all parts of the GGUF, else safetensors, else torch pickles; HubError if none."""
        if self.gguf is not None:
            return self.gguf
        source = self._open_files(use_safetensors)
        return PackedBlocks(source, self.types) if self.types else source

    def _open_files(self, use_safetensors: bool | None) -> TensorSource:
        kinds = {None: ("safetensors", "pickle"), True: ("safetensors",), False: ("pickle",)}[use_safetensors]
        for kind in kinds:
            single = self.snapshot.file(SINGLE[kind])
            if single is not None:
                return open_weights(single)
            index = self.snapshot.file(INDEX[kind])
            if index is not None:
                return open_shards(index, self.snapshot.require)
        wanted = [name for kind in kinds for name in (SINGLE[kind], INDEX[kind])]
        raise HubError(
            self.snapshot.name,
            f"must hold one of {', '.join(wanted)}, or a .gguf file",
            found=", ".join(self.snapshot.list()[:12]) or "no files",
        )

    def locate(self, source: TensorSource, parts: Parts, *, new: Collection[str] = ()) -> dict[str, Piece]:
        """Where each of our tensors lies in `source`, names and shapes checked; WeightsError if anything is off.

        Those in `new` may be missing.
        """
        family, arch = self.config.family, self.config.arch
        names = source.names()
        in_gguf = self.gguf is not None
        rules = gguf_dialect(family).rules if in_gguf else family.name_rules(names, parts.head)
        pieces = locate(names, rules, arch)
        shapes = {name: source.info(name).shape for name in names}
        check(pieces, shapes, arch, parts, new=new, heads=family.head_names)
        return pieces

    @property
    def arch(self) -> Arch:
        return self.config.arch


def read_keywords(keywords: dict[str, Any]) -> dict[str, Any]:
    """Takes out of `keywords` what says how to load; what is left names the Hub's files or keys of config.json.

    Hugging Face's keywords that we fulfil by nature are dropped; those of what we do not have are errors. What
    `quantization_config` asks for is left as `quantize`.
    """
    dtype, old_dtype = keywords.pop("dtype", None), keywords.pop("torch_dtype", None)
    if dtype is not None and old_dtype is not None and dtype != old_dtype:
        raise ArgumentError("dtype", "torch_dtype is its old name: give one of them", found=f"{dtype}, {old_dtype}")
    options = {key: keywords.pop(key, None) for key in LOADING}
    options["dtype"] = next((given for given in (dtype, old_dtype) if given is not None), "auto")
    for key in FULFILLED:
        keywords.pop(key, None)
    attention = keywords.pop("attn_implementation", None)
    if attention is not None and attention not in ATTENTIONS:
        raise ArgumentError("attn_implementation", f"must be one of {', '.join(ATTENTIONS)}", found=repr(attention))
    width = asked_width(keywords.pop("quantization_config", None))
    if width is not None and keywords.setdefault("quantize", width) != width:
        raise ArgumentError("quantize", f"quantization_config asks for {width}", found=repr(keywords["quantize"]))
    for key, remedy in REFUSED.items():
        if keywords.pop(key, None):
            raise UnsupportedError("from_pretrained", f"{key} is not supported", remedy=remedy)
    return options


def check_overrides(config: Config, overrides: Mapping[str, Any]) -> None:
    """ArgumentError for a keyword that is neither one of loading nor a key of this family's config.json."""
    try:
        config.arch  # noqa: B018
    except ConfigError as error:
        for key in overrides:
            if error.rule.startswith(f"key {key!r} "):
                known = [*LOADING, *HUB_KEYWORDS, "dtype", *config.to_dict()]
                near = difflib.get_close_matches(key, [name for name in known if name != key], 1)
                raise ArgumentError(
                    "from_pretrained",
                    f"{key!r} is neither a keyword nor a key of a {config.get('model_type')} config",
                    remedy=f"Is {near[0]!r} meant?" if near else "",
                ) from error
        raise


def open_checkpoint(
    name_or_path: str | os.PathLike[str],
    *,
    gguf_file: str | None = None,
    config: Config | None = None,
    overrides: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    harmless_config_keys: Sequence[str] = (),
    **hub: Any,
) -> Checkpoint:
    """Opens "org/name", a folder or a .gguf file. `overrides` win over keys of the config; `config` replaces it."""
    snapshot = open_snapshot(name_or_path, **hub)
    gguf = _open_gguf(snapshot, gguf_file)
    types: dict[str, str] = {}
    if config is None or (gguf is None and snapshot.file("config.json") is not None):
        values = _config_values(snapshot, gguf)
        if gguf is None and is_packed(values):
            types = read_types(values)
            del values[PACKED_KEY]
        part = text_part(values)
        if part.get("model_type") != values.get("model_type") and str(name_or_path) not in _said:
            _said.add(str(name_or_path))
            logger.info("%s sees pictures too; its text part alone is loaded", name_or_path)
        values = part
        if config is None:
            config = Config(values, harmless_config_keys=harmless_config_keys)
    if overrides:
        config = config.but(**overrides)
    config.name_or_path = os.fspath(name_or_path)
    if trust_remote_code and "auto_map" in config and str(name_or_path) not in _said:
        _said.add(str(name_or_path))
        logger.info("%s names code of its own; martlet has this family and runs none of it", name_or_path)
    return Checkpoint(snapshot, config, gguf, types)


def _open_gguf(snapshot: Snapshot, gguf_file: str | None) -> TensorSource | None:
    """The GGUF file of this checkpoint with all its parts; None if it is a folder of another kind."""
    filename = _gguf_name(snapshot, gguf_file)
    if filename is None:
        return None
    path = snapshot.require(filename)
    with open(path, "rb") as file:
        start = file.read(4)
    if snapshot.single is not None and start != MAGIC:
        raise FormatError(
            snapshot.name, "a single file must be GGUF", found=repr(start), remedy=f"Pass its folder, {path.parent}."
        )
    if snapshot.remote is None:
        return open_gguf(path)
    return open_gguf(path, lambda part: snapshot.require(str(PurePosixPath(filename).with_name(part))))


def _gguf_name(snapshot: Snapshot, gguf_file: str | None) -> str | None:
    if gguf_file is not None:
        return gguf_file
    if snapshot.single is not None:
        return snapshot.single.name
    if snapshot.file("config.json") is not None:
        return None
    found = gguf_models(snapshot.list())
    if len(found) > 1:
        raise ArgumentError(
            snapshot.name, "holds several GGUF files", found=", ".join(sorted(found)), remedy="Pass gguf_file=."
        )
    return found[0] if found else None


def _config_values(snapshot: Snapshot, gguf: TensorSource | None) -> dict[str, Any]:
    if gguf is None:
        return read_json(snapshot.require("config.json"))
    family = find_gguf_family(str(gguf.metadata.get("general.architecture")))
    assert family.gguf is not None
    return {**family.gguf.config(gguf.metadata, gguf), "architectures": [family.lm_class]}
