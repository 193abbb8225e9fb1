"""The options of commands that generate: which files, which device, which settings. Values keep generation's rules."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from martlet.errors import ArgumentError, MartletError
from martlet.generation.fields import checked, unknown_field

if TYPE_CHECKING:
    from martlet.generation.config import GenerationConfig

ORIGIN = "command line"
DEFAULT_ORIGIN = "default of the command line"
DEFAULT_NEW_TOKENS = 1024  # where neither the model nor the user says; Python's default of 20 cuts answers off
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
# field -> what its option says in --help
FIELDS = {
    "max_new_tokens": f"the most tokens to write (default: the model's own, else {DEFAULT_NEW_TOKENS})",
    "min_new_tokens": "the fewest tokens to write",
    "max_time": "seconds after which to stop",
    "temperature": "above 1 for more surprise, below for less; 0 is --greedy",
    "top_k": "sample among the K likeliest tokens",
    "top_p": "sample among the likeliest tokens that together have this probability",
    "min_p": "sample among tokens with at least this share of the likeliest one's probability",
    "typical_p": "sample among the most typical tokens that together have this probability",
    "seed": "the same seed, the same tokens",
    "repetition_penalty": "above 1, tokens that came before are less likely",
    "no_repeat_ngram_size": "no run of this many tokens comes twice",
    "num_beams": "beam search with this many beams; shows its text at the end",
    "prompt_lookup_num_tokens": "guess so many tokens from the prompt: the same text, sooner where it repeats it",
}
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
# Fields that shape what a Python caller gets back; here there is one text.
SHAPES = (
    "num_return_sequences", "return_dict_in_generate", "output_scores", "output_logits", "output_hidden_states",
    "output_attentions",
)  # fmt: skip


def add_model_options(parser: argparse.ArgumentParser, *, is_optional: bool = False) -> None:
    """MODEL and where its files come from."""
    words = 'a folder, a .gguf file, or "org/name" on the Hugging Face Hub'
    parser.add_argument("model", metavar="MODEL", nargs="?" if is_optional else None, help=words)
    group = parser.add_argument_group("files")
    group.add_argument("--revision", help="branch, tag or commit on the Hub")
    group.add_argument("--subfolder", default="", help="folder of the model inside MODEL")
    group.add_argument("--gguf-file", metavar="FILE", help="which GGUF file, where MODEL holds several")
    group.add_argument("--offline", action="store_true", help="only files that are here; the Hub is not asked")
    group.add_argument("--traceback", action="store_true", help="show where an error came from")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Where and in which precision a model runs."""
    group = parser.add_argument_group("running")
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or auto (default: cpu)")
    group.add_argument(
        "--backend",
        choices=("auto", "native", "torch"),
        default="auto",
        help="what computes (default: auto, the native engine on the CPU for the types it has kernels for, else torch)",
    )
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto, the file's)")
    add_cache_options(group)


def add_cache_options(group: Any) -> None:
    """What the native engine keeps keys and values in; `cache_options` reads them."""
    group.add_argument(
        "--kv-cache-dtype",
        choices=("auto", "float16", "bfloat16", "float32"),
        help="of keys and values on the native engine (default: auto, float32 for float32 weights, else float16)",
    )
    group.add_argument(
        "--kv-cache-bytes",
        type=_read_size,
        metavar="SIZE",
        help="the most memory for keys and values, as 2000000000 or 2GB or 512MiB (default: no limit)",
    )


def cache_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said of keys and values, as keywords of `from_pretrained`."""
    said = {"kv_cache_dtype": arguments.kv_cache_dtype, "kv_cache_bytes": arguments.kv_cache_bytes}
    return {name: value for name, value in said.items() if value is not None}


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """Settings of the generation; what is not given is as the model says."""
    group = parser.add_argument_group("generation")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--greedy", dest="do_sample", action="store_false", default=None, help="the likeliest token")
    choice.add_argument("--sample", dest="do_sample", action="store_true", default=None, help="draw each token")
    for field, text in FIELDS.items():
        flag = "--" + field.replace("_", "-")
        metavar = "K" if field == "top_k" else "P" if field.endswith("_p") else "N"
        group.add_argument(flag, dest=field, type=_reader(field), metavar=metavar, help=text)
    group.add_argument("--stop", action="append", metavar="TEXT", help="stop after this text; may be given repeatedly")
    group.add_argument(
        "--set",
        action="append",
        type=_read_setting,
        metavar="NAME=VALUE",
        help="any other field of GenerationConfig, its value as JSON",
    )
    group.add_argument(
        "--truncate-prompt", action="store_true", help="forget the beginning of what is longer than the context"
    )


def hub_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What finds the files of MODEL, as keywords of `open_checkpoint` and `from_pretrained`."""
    said = {"revision": arguments.revision, "subfolder": arguments.subfolder, "gguf_file": arguments.gguf_file}
    found = {name: value for name, value in said.items() if value}
    return found | ({"local_files_only": True} if arguments.offline else {})


def settings(arguments: argparse.Namespace, config: GenerationConfig) -> GenerationConfig:
    """The model's `config` with what the command line says, each value remembering where it came from.

    Options of sampling ask for sampling, unless --greedy does not: then they are an ArgumentError.
    """
    given: dict[str, Any] = dict(arguments.set or ())
    for field in FIELDS:
        if getattr(arguments, field) is not None:
            given[field] = getattr(arguments, field)
    if arguments.stop:
        given["stop_strings"] = [checked("stop_strings", text) for text in arguments.stop]
    if arguments.do_sample is not None:
        given["do_sample"] = arguments.do_sample
    if given.get("temperature") == 0 and not given.get("do_sample"):
        given["do_sample"] = False
        del given["temperature"]
    sampling = [field for field in SAMPLING if field in given]
    if sampling and not given.setdefault("do_sample", True):
        flag = "--" + sampling[0].replace("_", "-")
        raise ArgumentError(flag, "samples, and cannot go with greedy decoding", remedy="Leave one of them out.")
    config = config.but(ORIGIN, **given)
    if config.num_return_sequences > 1:
        config = config.but(DEFAULT_ORIGIN, num_return_sequences=1)
    if config.max_new_tokens is None and config.max_length is None:
        config = config.but(DEFAULT_ORIGIN, max_new_tokens=DEFAULT_NEW_TOKENS)
    return config


def from_file(config: GenerationConfig, *, is_gguf: bool) -> GenerationConfig:
    """The config with its values' origin named after the file they lie in: a GGUF file has no config.json."""
    if not is_gguf:
        return config
    return config.but(
        "GGUF metadata", **{name: value for name, value, origin in config.describe() if origin == "config.json"}
    )


def described(config: GenerationConfig) -> dict[str, dict[str, Any]]:
    """Every setting that something has set: its value, and where it came from."""
    return {name: {"value": value, "origin": origin} for name, value, origin in config.describe()}


def _read_size(text: str) -> int:
    number = text.rstrip("BGKMTigkmtb")
    unit = text[len(number) :].upper()
    if not (number.isdecimal() and number.isascii()) or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"must be a number of bytes, as 2000000000 or 2GB or 512MiB; found {text!r}")
    return int(number) * UNITS[unit]


def _reader(field: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value: Any = text
        for kind in (int, float):
            try:
                value = kind(text)
                break
            except ValueError:
                continue
        return _check(field, value)

    return read


def _read_setting(text: str) -> tuple[str, Any]:
    name, is_pair, value = text.partition("=")
    if not is_pair:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE; found {text!r}")
    if name in SHAPES:
        raise argparse.ArgumentTypeError(f"{name} has no meaning here: the command shows one text")
    try:
        read = json.loads(value)
    except ValueError:
        read = value
    return name, _check(name, read)


def _check(field: str, value: Any) -> Any:
    """The value, if it keeps the field's rule; argparse puts the option's name before the error."""
    from martlet.generation.fields import FIELDS as KNOWN

    try:
        if field not in KNOWN:
            raise unknown_field(field)
        return checked(field, value)
    except MartletError as error:
        found = f"; found {error.found}" if error.found is not None else ""
        text = f"{error.rule}{found}" + (f". {error.remedy}" if error.remedy else "")
        raise argparse.ArgumentTypeError(text.rstrip(".")) from error
