"""Estimators in scikit-learn's manner over `Trainer`: texts in, answers out. Their base is scikit-learn's own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from martlet.errors import ArgumentError, MissingDependencyError, TrainingDataError

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted
except ImportError as problem:
    raise MissingDependencyError("estimators", "need scikit-learn", remedy="pip install scikit-learn") from problem

Array = np.ndarray[Any, Any]


class _TextEstimator(BaseEstimator):  # type: ignore[misc]
    """What the three share: a model by name or folder, its tokenizer, and the arguments of a run."""

    head = ""

    def __init__(
        self,
        model: Any = None,
        *,
        max_steps: int = -1,
        num_train_epochs: float = 3.0,
        learning_rate: float = 5e-5,
        batch_size: int = 8,
        max_length: int = 512,
        seed: int = 42,
        training_arguments: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.max_steps = max_steps
        self.num_train_epochs = num_train_epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.seed = seed
        self.training_arguments = training_arguments

    def _fit(self, rows: list[dict[str, Any]], **options: Any) -> None:
        import martlet
        from martlet.generation import set_seed
        from martlet.training.arguments import TrainingArguments
        from martlet.training.trainer import Trainer

        if self.model is None:
            raise ArgumentError(type(self).__name__, "needs model=, a name or a folder")
        set_seed(self.seed)  # a new head is drawn from torch's generator
        auto: Any = getattr(martlet, self.head)
        model = auto.from_pretrained(self.model, **options)
        with tempfile.TemporaryDirectory() as folder:
            given = {"output_dir": folder, "save_strategy": "no", "report_html": False, "disable_tqdm": True}
            args = TrainingArguments(
                **{
                    **given, "max_steps": self.max_steps, "num_train_epochs": self.num_train_epochs,
                    "learning_rate": self.learning_rate, "per_device_train_batch_size": self.batch_size,
                    "seed": self.seed, **(self.training_arguments or {}),
                }
            )  # fmt: skip
            trainer = Trainer(model, args, train_dataset=rows)
            trainer.train()
        self.model_ = model.eval()

    def _tokenizer(self) -> Any:
        from martlet.tokenizers.auto import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.model)

    def _encoded(self, texts: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        found = self.tokenizer_(list(texts), truncation=True, max_length=self.max_length, **options)
        names = [name for name in found if name != "attention_mask"]
        return [{name: found[name][row] for name in names} for row in range(len(texts))]

    def _scores(self, rows: list[dict[str, Any]]) -> list[Array]:
        """Logits of each row: `(C,)`, or `(tokens, C)`."""
        import torch

        from martlet.training.collators import pad_batch, pad_id

        out: list[Array] = []
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            with torch.no_grad():
                logits = self.model_(**pad_batch(part, pad_id(self.tokenizer_))).logits.float().numpy()
            out += list(logits)
        return out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = True, True, False
        tags.no_validation = True  # texts are checked here
        return tags


def read_texts(X: Any) -> list[str]:
    """Texts of a list, an array or a column; TrainingDataError for anything else."""
    texts = list(np.asarray(X, object).ravel()) if hasattr(X, "__array__") else list(X)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TrainingDataError(f"X, row {number}", "must be text", found=type(text).__name__)
    if not texts:
        raise TrainingDataError("X", "must have rows", found="none")
    return texts


def _same_length(texts: Sequence[Any], y: Any) -> None:
    if y is None or len(texts) != len(y):
        found = "no y" if y is None else f"{len(texts)} and {len(y)}"
        raise TrainingDataError("X and y", "must have as many rows", found=found)


class TextClassifier(ClassifierMixin, _TextEstimator):  # type: ignore[misc]
    """A class for each text: `fit(X, y)`, `predict`, `predict_proba`, `score` (accuracy). `model`: a checkpoint."""

    head = "AutoModelForSequenceClassification"

    def fit(self, X: Any, y: Any) -> TextClassifier:
        """Trains on texts and their classes, of any kind that sorts."""
        texts = read_texts(X)
        _same_length(texts, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(np.asarray(y), return_inverse=True)
        if len(self.classes_) < 2:
            raise TrainingDataError("y", "must have two classes", found=f"{len(self.classes_)}")
        self.tokenizer_ = self._tokenizer()
        rows = [{**row, "label": int(label)} for row, label in zip(self._encoded(texts), labels, strict=True)]
        self._fit(rows, num_labels=len(self.classes_))
        return self

    def predict_proba(self, X: Any) -> Array:
        """`(rows, classes)`, in the order of `classes_`; each row sums to 1."""
        check_is_fitted(self, "model_")
        scores = np.stack(self._scores(self._encoded(read_texts(X))))
        odds = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(odds / odds.sum(1, keepdims=True))

    def predict(self, X: Any) -> Array:
        """The likeliest class of each text."""
        odds = self.predict_proba(X)
        return np.asarray(self.classes_[odds.argmax(1)])


class TextRegressor(RegressorMixin, _TextEstimator):  # type: ignore[misc]
    """A number for each text: `fit(X, y)`, `predict`, `score` (R squared). The numbers are scaled to train on."""

    head = "AutoModelForSequenceClassification"

    def fit(self, X: Any, y: Any) -> TextRegressor:
        """Trains on texts and their numbers."""
        texts = read_texts(X)
        _same_length(texts, y)
        values = np.asarray(y, np.float64)
        if not np.isfinite(values).all():
            raise TrainingDataError("y", "must be finite numbers", found="NaN or infinity")
        self.mean_, self.scale_ = float(values.mean()), float(values.std()) or 1.0
        self.tokenizer_ = self._tokenizer()
        scaled = (values - self.mean_) / self.scale_
        rows = [{**row, "label": float(value)} for row, value in zip(self._encoded(texts), scaled, strict=True)]
        self._fit(rows, num_labels=1)
        return self

    def predict(self, X: Any) -> Array:
        """A number for each text."""
        check_is_fitted(self, "model_")
        scores = np.stack(self._scores(self._encoded(read_texts(X))))[:, 0]
        return np.asarray(scores.astype(np.float64) * self.scale_ + self.mean_)


class TokenClassifier(_TextEstimator):
    """A class for each word: X holds lists of words, y lists of classes. A word's class is that of its first token."""

    head = "AutoModelForTokenClassification"

    def fit(self, X: Any, y: Any) -> TokenClassifier:
        """Trains on words and their classes."""
        words = [list(each) for each in X]
        _same_length(words, y)
        for number, (row, labels) in enumerate(zip(words, y, strict=True)):
            if len(row) != len(labels) or not row:
                raise TrainingDataError(f"row {number}", "must have a class for each word", found=len(labels))
        self.classes_ = np.unique(np.concatenate([np.asarray(labels) for labels in y]))
        self.tokenizer_ = self._tokenizer()
        place = {label: number for number, label in enumerate(self.classes_.tolist())}
        rows = []
        for row, labels in zip(words, y, strict=True):
            encoded, firsts = self._words(row)
            own = [-100] * len(encoded["input_ids"])
            for word, token in firsts.items():
                own[token] = place[labels[word]]
            rows.append({**encoded, "labels": own})
        self._fit(rows, num_labels=len(self.classes_))
        return self

    def _words(self, words: list[str]) -> tuple[dict[str, Any], dict[int, int]]:
        """The encoded words, and the first token of each that is within `max_length`."""
        found = self.tokenizer_(words, is_split_into_words=True, truncation=True, max_length=self.max_length)
        firsts: dict[int, int] = {}
        for token, word in enumerate(found.word_ids(0)):
            if word is not None:
                firsts.setdefault(word, token)
        return {name: found[name] for name in found if name != "attention_mask"}, firsts

    def predict(self, X: Any) -> list[list[Any]]:
        """A class for each word; None for words past `max_length`."""
        check_is_fitted(self, "model_")
        encoded = [self._words(list(each)) for each in X]
        out = []
        for (_, firsts), words, scores in zip(encoded, X, self._scores([row for row, _ in encoded]), strict=True):
            best = self.classes_[scores.argmax(1)].tolist()
            out.append([best[firsts[word]] if word in firsts else None for word in range(len(words))])
        return out

    def score(self, X: Any, y: Any) -> float:
        """The share of words whose class is right."""
        pairs = [pair for row, labels in zip(self.predict(X), y, strict=True) for pair in zip(row, labels, strict=True)]
        return float(np.mean([found == wanted for found, wanted in pairs]))
