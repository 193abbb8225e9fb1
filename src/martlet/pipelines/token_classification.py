"""`TokenClassificationPipeline`: names and other spans of a text; tokens put together by the strategy asked for."""

# T tokens, C labels

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from martlet.errors import ArgumentError
from martlet.pipelines.encoder_tasks import ForwardPipeline, has_head, softmax

STRATEGIES = ("none", "simple", "first", "average", "max")
Entity = dict[str, Any]


class TokenClassificationPipeline(ForwardPipeline):
    """`pipe("Ada lives in Bern")` -> a list of `{"entity", "score", "index", "word", "start", "end"}`, one a token.

    `aggregation_strategy` "simple" joins neighbours of one entity into `{"entity_group", "score", "word", "start",
    "end"}`; "first", "average" and "max" first give all tokens of a word one label: its first token's, the best mean
    score's, or its surest token's. `ignore_labels` (["O"]) are left out. Long texts: `stride` lets windows overlap.
    """

    task = "token-classification"
    needs = "AutoModelForTokenClassification"
    options: ClassVar[Mapping[str, Any]] = {"aggregation_strategy": "none", "ignore_labels": ("O",), "stride": None}

    @classmethod
    def takes(cls, model: Any) -> bool:
        return has_head(model, "token-classification")

    def check(self, asked: Mapping[str, Any]) -> None:
        strategy = _name(asked["aggregation_strategy"])
        if strategy not in STRATEGIES:
            raise ArgumentError("aggregation_strategy", f"must be one of {', '.join(STRATEGIES)}", found=repr(strategy))
        if asked["stride"] is not None and strategy == "none":
            raise ArgumentError("stride", "needs an aggregation_strategy that joins tokens", found="'none'")

    def answer(self, batch: Sequence[Any], asked: Mapping[str, Any]) -> list[Any]:
        more: dict[str, Any] = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        if asked["stride"] is not None:
            more |= {"stride": asked["stride"], "return_overflowing_tokens": True, "truncation": True}
        return [
            self._of_text(text, encoded, asked)
            for text, encoded in zip(batch, self.encode(batch, asked, **more), strict=True)
        ]

    def _of_text(self, text: str, encoded: Any, asked: Mapping[str, Any]) -> list[Entity]:
        windows = [encoded] if isinstance(encoded["input_ids"][0], int) else _windows(encoded)
        strategy, found = _name(asked["aggregation_strategy"]), []
        for window in windows:
            logits_TC = self.model(**self.inputs_of([window])).logits[0].float().cpu().numpy()
            tokens = self._tokens(text, window, softmax(logits_TC))
            entities = self._aggregate(tokens, strategy)
            found += [
                each for each in entities if each.get("entity", each.get("entity_group")) not in asked["ignore_labels"]
            ]
        return found if len(windows) == 1 else _without_overlaps(found)

    def _tokens(self, text: str, window: Any, scores_TC: Any) -> list[Entity]:
        """Tokens that are not special, and whether each goes on with the word before it."""
        out = []
        prefix = getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        for index, (start, end) in enumerate(window["offset_mapping"]):
            if window["special_tokens_mask"][index]:
                continue
            number = int(window["input_ids"][index])
            word, said = self.tokenizer.convert_ids_to_tokens(number), text[start:end]
            if prefix:
                is_subword = len(word) != len(said)
            else:
                is_subword = start > 0 and " " not in text[start - 1 : start + 1]
            if number == self.tokenizer.unk_token_id:
                word, is_subword = said, False
            out.append(
                {
                    "word": word,
                    "scores": scores_TC[index],
                    "start": start,
                    "end": end,
                    "index": index,
                    "is_subword": is_subword,
                }
            )
        return out

    def _aggregate(self, tokens: list[Entity], strategy: str) -> list[Entity]:
        names = self.model.config.id2label
        if strategy in ("none", "simple"):
            entities = []
            for token in tokens:
                best = int(token["scores"].argmax())
                kept = {key: token[key] for key in ("index", "word", "start", "end")}
                entities.append({"entity": names[best], "score": token["scores"][best], **kept})
            return entities if strategy == "none" else self._groups(entities)
        words: list[list[Entity]] = []
        for token in tokens:
            if words and token["is_subword"]:
                words[-1].append(token)
            else:
                words.append([token])
        return self._groups([self._word(word, strategy) for word in words])

    def _word(self, tokens: list[Entity], strategy: str) -> Entity:
        """One entity of the tokens of a word."""
        if strategy == "first":
            scores = tokens[0]["scores"]
        elif strategy == "max":
            scores = max(tokens, key=lambda token: token["scores"].max())["scores"]
        else:
            scores = np.stack([token["scores"] for token in tokens]).mean(0)
        best = int(scores.argmax())
        return {
            "entity": self.model.config.id2label[best],
            "score": scores[best],
            "word": self._joined(tokens),
            "start": tokens[0]["start"],
            "end": tokens[-1]["end"],
        }

    def _groups(self, entities: list[Entity]) -> list[Entity]:
        """Neighbours of one tag together; a B- begins anew."""
        groups: list[list[Entity]] = []
        for entity in entities:
            begins, tag = _tag(entity["entity"])
            if groups and not begins and _tag(groups[-1][-1]["entity"])[1] == tag:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": np.mean([each["score"] for each in group]),
                "word": self._joined(group),
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]

    def _joined(self, tokens: Sequence[Entity]) -> str:
        text: str = self.tokenizer.convert_tokens_to_string([token["word"] for token in tokens])
        return text


def _name(strategy: Any) -> str:
    """A strategy's name, of a string or of Hugging Face's enum."""
    return str(getattr(strategy, "value", strategy)).lower()


def _tag(name: str) -> tuple[bool, str]:
    return (name.startswith("B-"), name[2:]) if name[:2] in ("B-", "I-") else (False, name)


def _windows(encoded: Any) -> list[dict[str, Any]]:
    names = [name for name in encoded if name != "overflow_to_sample_mapping"]
    return [{name: encoded[name][row] for name in names} for row in range(len(encoded["input_ids"]))]


def _without_overlaps(entities: list[Entity]) -> list[Entity]:
    """Of entities of two windows at one place the longer, then the surer."""
    out: list[Entity] = []
    for entity in sorted(entities, key=lambda each: each["start"]):
        if not out or not out[-1]["start"] <= entity["start"] < out[-1]["end"]:
            out.append(entity)
            continue
        size, other = entity["end"] - entity["start"], out[-1]["end"] - out[-1]["start"]
        if size > other or (size == other and entity["score"] > out[-1]["score"]):
            out[-1] = entity
    return out
