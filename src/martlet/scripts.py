"""What scripts ask around a model: which libraries are there, which versions, which families a class covers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from martlet.errors import ArgumentError, MissingDependencyError


def _is_there(package: str, reads: str) -> Callable[[], bool]:
    def is_available() -> bool:
        return find_spec(package) is not None

    is_available.__doc__ = f"Whether {reads} is installed; it is not loaded for that."
    return is_available


def _is_not(what: str) -> Callable[[], bool]:
    def is_available() -> bool:
        return False

    is_available.__doc__ = f"False: {what}"
    return is_available


is_torch_available = _is_there("torch", "torch")
is_datasets_available = _is_there("pyarrow", "what `martlet.datasets` needs")
is_tokenizers_available = _is_there("tokenizers", "tokenizers")
is_sentencepiece_available = _is_there("tokenizers", "what reads SentencePiece files here")
is_peft_available = _is_there("torch", "what adapters need")
is_accelerate_available = _is_there("accelerate", "accelerate")
is_vision_available = _is_not("martlet is for text.")
is_tf_available = _is_not("there is no TensorFlow here.")
is_flax_available = _is_not("there is no JAX here.")
is_bitsandbytes_available = _is_not("weights are packed by `quantize=`.")
is_flash_attn_2_available = _is_not("attention is martlet's own.")
is_torch_xla_available = _is_not("TPUs are not here.")


def is_torch_bf16_gpu_available() -> bool:
    """Whether there is a GPU that computes in bfloat16."""
    if not is_torch_available():
        return False
    torch = import_module("torch")
    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def infer_device() -> str:
    """The kind of device that models should be put on: "cuda" where there is one, "mps", or "cpu"."""
    if not is_torch_available():
        return "cpu"
    torch = import_module("torch")
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def check_min_version(min_version: str) -> None:
    """Nothing is checked: it is a version of transformers' that is asked for, and what is missing has an error here."""


def require_version(requirement: str, hint: str | None = None) -> None:
    """MissingDependencyError unless a package is installed, in the version asked for: "datasets>=1.8.0"."""
    found = re.fullmatch(r"\s*([\w.-]+)\s*((?:[<>=!]=?[\w.*]+\s*,?\s*)*)", requirement)
    if found is None:
        raise ArgumentError(
            "require_version", "needs a package and versions, as datasets>=1.8", found=repr(requirement)
        )
    name, versions = found.groups()
    try:
        have = metadata.version(name)
    except metadata.PackageNotFoundError as problem:
        raise MissingDependencyError(name, "is needed", remedy=hint or f"pip install '{requirement}'") from problem
    for sign, version in re.findall(r"([<>=!]=?)([\w.*]+)", versions):
        if not _fits(have, sign, version):
            raise MissingDependencyError(name, f"must be {sign}{version}", found=have, remedy=hint or "")


def _fits(have: str, sign: str, version: str) -> bool:
    mine, other = (tuple(map(int, re.findall(r"\d+", text.split("+")[0])[:4])) for text in (have, version))
    width = max(len(mine), len(other))
    mine, other = (numbers + (0,) * (width - len(numbers)) for numbers in (mine, other))
    signs = {">=": mine >= other, "<=": mine <= other, ">": mine > other, "<": mine < other, "!=": mine != other}
    return signs.get(sign, mine == other)


def get_last_checkpoint(folder: str) -> str | None:
    """The newest checkpoint of a run's folder that is whole, or None: its path."""
    from martlet.training.checkpoints import newest_good

    found = newest_good(Path(folder))
    return None if found is None else str(found)


class _Classes(Mapping[Any, Any]):
    """Families' config classes, each with its class of models for one purpose."""

    def __init__(self, purposes: tuple[str, ...]) -> None:
        self._purposes = purposes

    def _pairs(self) -> dict[Any, Any]:
        from martlet.auto_named import FAMILIES, find

        pairs = {}
        for prefix in FAMILIES:
            config = find(f"{prefix}Config")
            model = next((each for purpose in self._purposes if (each := find(f"{prefix}{purpose}"))), None)
            if config is not None and model is not None:
                pairs[config] = model
        return pairs

    def __getitem__(self, config: Any) -> Any:
        found = {each.model_type: model for each, model in self._pairs().items()}
        return found[config if isinstance(config, str) else config.model_type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pairs())

    def __len__(self) -> int:
        return len(self._pairs())


class _Configs(_Classes):
    """Config classes by model_type."""

    def _pairs(self) -> dict[Any, Any]:
        return {each.model_type: each for each in super()._pairs()}

    def __getitem__(self, model_type: Any) -> Any:
        return self._pairs()[model_type]


CONFIG_MAPPING = _Configs(("Model",))
MODEL_MAPPING = _Classes(("Model",))
MODEL_FOR_CAUSAL_LM_MAPPING = _Classes(("ForCausalLM", "LMHeadModel"))
MODEL_FOR_MASKED_LM_MAPPING = _Classes(("ForMaskedLM",))
MODEL_FOR_QUESTION_ANSWERING_MAPPING = _Classes(("ForQuestionAnswering",))
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING = _Classes(("ForSequenceClassification",))
MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING = _Classes(("ForTokenClassification",))
