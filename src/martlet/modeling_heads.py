"""The models with heads a user holds: torch modules that load and save. Made by auto_heads.py."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from martlet.arch import Parts, Task, tensors
from martlet.checkpoint import Checkpoint
from martlet.errors import ArgumentError, UnsupportedError, WeightsError
from martlet.families import Config
from martlet.formats.tensors import TensorSource
from martlet.modeling import Saved
from martlet.nn.heads import (
    HEADS,
    PROBLEMS,
    MaskedLM,
    MultipleChoice,
    QuestionAnswerer,
    SequenceClassifier,
    TokenClassifier,
)
from martlet.weights import locate

logger = logging.getLogger("martlet")


class _Held(Saved):
    """What models with a head share beside `Saved`."""

    model: Any

    def get_input_embeddings(self) -> nn.Embedding:
        table: nn.Embedding = self.model.embed_tokens
        return table

    def can_generate(self) -> bool:
        return False

    @property
    def num_labels(self) -> int:
        return self.config.num_labels

    def gradient_checkpointing_enable(self) -> None:
        self.model.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        self.model.gradient_checkpointing = False


class ModelForMaskedLM(_Held, MaskedLM):
    """An encoder that fills in masked tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.arch)
        self.config, self.name_or_path, self.asked = config, "", config

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head


class ModelForSequenceClassification(_Held, SequenceClassifier):
    """A classifier of whole texts, or a regressor."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.arch, head_parts(config, Task.SEQUENCE))
        self.config, self.name_or_path, self.asked = config, "", config


class ModelForTokenClassification(_Held, TokenClassifier):
    """A classifier of tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.arch, head_parts(config, Task.TOKEN))
        self.config, self.name_or_path, self.asked = config, "", config


class ModelForQuestionAnswering(_Held, QuestionAnswerer):
    """Finds an answer's start and end in a text."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.arch, head_parts(config, Task.QUESTION))
        self.config, self.name_or_path, self.asked = config, "", config


class ModelForMultipleChoice(_Held, MultipleChoice):
    """Scores continuations against each other."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.arch, head_parts(config, Task.CHOICE))
        self.config, self.name_or_path, self.asked = config, "", config


MODELS: dict[Task, Any] = {
    Task.SEQUENCE: ModelForSequenceClassification,
    Task.TOKEN: ModelForTokenClassification,
    Task.QUESTION: ModelForQuestionAnswering,
    Task.CHOICE: ModelForMultipleChoice,
}
assert MODELS.keys() == HEADS.keys()


def head_parts(config: Config, task: Task) -> Parts:
    """Body and head of a task in this family; UnsupportedError where the family has none."""
    family, arch = config.family, config.arch
    form = family.heads.get(task)
    if form is None:
        raise UnsupportedError(f"{family.model_type} model", f"has no head for {task}")
    problem = config.get("problem_type")
    if problem is not None and problem not in PROBLEMS:
        raise ArgumentError("problem_type", f"must be one of {', '.join(PROBLEMS)}", found=repr(problem))
    num_labels = {Task.QUESTION: 2, Task.CHOICE: 1}.get(task, config.num_labels)
    return family.parts_for(arch, form.head(task, num_labels, config.to_dict()))


def masked_model(config: Config) -> ModelForMaskedLM:
    """An empty masked language model; UnsupportedError for a decoder."""
    if config.arch.causal:
        raise UnsupportedError(
            f"{config.family.model_type} model",
            "a token sees those before it only, so it cannot fill in masked ones",
            remedy="Load it with AutoModelForCausalLM.",
        )
    return ModelForMaskedLM(config)


class NewParts:
    """Which tensors may be new: those of the head, where the user named its labels; and parts named in `allow_new`."""

    def __init__(self, allow_new: Any, has_labels: bool) -> None:
        if isinstance(allow_new, str):
            allow_new = (allow_new,)
        if allow_new is not None and not (
            isinstance(allow_new, Sequence) and all(isinstance(part, str) for part in allow_new)
        ):
            raise ArgumentError("allow_new", "must be names of parts, such as 'classifier'", found=repr(allow_new))
        self.named: tuple[str, ...] = tuple(allow_new or ())
        self.has_labels = has_labels

    def __call__(self, opened: Checkpoint, source: TensorSource, model: Any) -> Collection[str]:
        """Names of tensors that `source` does not have, and the user lets be new. Says so in the log, once a load."""
        wanted = tensors(opened.arch, model.parts)
        parts = self._parts(opened, wanted)
        names = source.names()
        rules = opened.config.family.name_rules(names, model.parts.head)
        if opened.gguf is not None and opened.config.family.gguf:
            rules = opened.config.family.gguf.rules
        found = locate(names, rules, opened.arch)
        head = [name for name in wanted if name.startswith("head.")]
        allowed = {name for names_of in (parts[each] for each in self.named) for name in names_of}
        allowed |= set(head) if self.has_labels else set()
        missing = [name for name in wanted if name not in found]
        self._check_head(opened, head, missing, found, source, wanted, allowed)
        new = [name for name in missing if name in allowed]
        if new:
            shown = ", ".join(f"{name} {list(wanted[name])}" for name in new)
            logger.warning("%s: new weights, as asked for, to be trained: %s", opened.snapshot.name, shown)
        return new

    def _parts(self, opened: Checkpoint, wanted: Collection[str]) -> dict[str, list[str]]:
        """Our tensors by the names a user may give: those of the checkpoint's modules, and ours."""
        parts = {
            "head": [name for name in wanted if name.startswith("head.")],
            "pooler": [name for name in wanted if name.startswith("model.pooler.")],
            "lm_head": [name for name in wanted if name.startswith(("lm_head.", "lm_transform."))],
        }
        parts |= {name.rstrip("."): parts["head"] for name in opened.config.family.head_names if name != "cls."}
        parts["cls"] = parts["lm_head"]
        unknown = [name for name in self.named if not parts.get(name)]
        if unknown:
            known = ", ".join(sorted(name for name, held in parts.items() if held))
            raise ArgumentError("allow_new", f"this model has {known}", found=repr(unknown[0]))
        return parts

    def _check_head(
        self,
        opened: Checkpoint,
        head: Collection[str],
        missing: Collection[str],
        found: Any,
        source: TensorSource,
        wanted: Any,
        allowed: Collection[str],
    ) -> None:
        gone = [name for name in head if name in missing and name not in allowed]
        if gone and len([name for name in missing if name not in allowed]) == len(gone):
            raise WeightsError(
                opened.snapshot.name,
                f"has no such head: {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} missing",
                remedy="To train a new one pass num_labels= or id2label=, or allow_new='head'.",
            )
        for name in head:
            if name in found and found[name].shape(source.info(found[name].source).shape) != wanted[name]:
                raise WeightsError(
                    f"tensor {found[name].source}",
                    f"the head asked for needs the shape {list(wanted[name])}",
                    found=f"a tensor of shape {list(source.info(found[name].source).shape)}",
                    remedy="Leave num_labels and id2label to the checkpoint, or load a base model without this head.",
                )
