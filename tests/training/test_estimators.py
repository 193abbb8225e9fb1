"""The estimators in scikit-learn's own tools, on a tiny bert that learns which words matter."""

import numpy as np
import pytest
import tokenizers
import torch

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from martlet.errors import TrainingDataError
from martlet.tokenizers import Tokenizer
from martlet.training import TextClassifier, TextRegressor, TokenClassifier

WORDS = ["good", "bad", "fine", "poor", "film", "cat", "the", "a", "was", "very"]
NICE = {"good": 1, "fine": 1, "bad": -1, "poor": -1}
RUN = {"max_steps": 30, "learning_rate": 5e-3, "batch_size": 8, "training_arguments": {"lr_scheduler_type": "constant"}}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny bert without a head, and a tokenizer of whole words."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS) + 2, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, pad_token_id=0,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(path)
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{word: place + 2 for place, word in enumerate(WORDS)}}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(backend)
    tokenizer.pad_token = "[PAD]"
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def texts():
    chance = np.random.default_rng(1)
    return [" ".join(["the", "film", "was", *chance.choice(["very", "a", "cat"], 2), word]) for word in
            chance.choice(list(NICE), 32)]  # fmt: skip


def feeling(texts):
    return np.array([sum(NICE.get(word, 0) for word in text.split()) for text in texts])


def test_a_classifier_learns(folder, texts):
    y = np.where(feeling(texts) > 0, "yes", "no")
    model = TextClassifier(folder, **RUN).fit(texts, y)
    assert model.classes_.tolist() == ["no", "yes"]
    assert model.score(texts, y) == 1.0
    odds = model.predict_proba(texts[:5])
    assert odds.shape == (5, 2)
    assert np.allclose(odds.sum(1), 1)
    assert clone(model).get_params() == model.get_params()
    again = TextClassifier(folder, **RUN).fit(texts, y).predict_proba(texts[:5])
    assert np.array_equal(odds, again)


@pytest.mark.slow
def test_scikit_learns_tools(folder, texts):
    y = feeling(texts) > 0
    pipeline = Pipeline([("lower", FunctionTransformer(lambda X: [text.lower() for text in X])),
                         ("model", TextClassifier(folder, **RUN))])  # fmt: skip
    assert cross_val_score(pipeline, [text.upper() for text in texts], y, cv=2).mean() > 0.9
    search = GridSearchCV(TextClassifier(folder, **RUN), {"learning_rate": [0.0, 5e-3]}, cv=2).fit(texts, y)
    assert search.best_params_ == {"learning_rate": 5e-3}


def test_a_regressor_learns(folder, texts):
    y = feeling(texts) * 40.0 + 100
    assert TextRegressor(folder, **{**RUN, "max_steps": 120}).fit(texts, y).score(texts, y) > 0.9


def test_a_token_classifier_learns(folder, texts):
    X = [text.split() for text in texts]
    y = [["MARK" if word in NICE else "O" for word in row] for row in X]
    model = TokenClassifier(folder, **RUN).fit(X, y)
    assert model.score(X, y) > 0.95
    assert len(model.predict(X[:2])[0]) == len(X[0])


def test_what_is_refused(folder):
    with pytest.raises(TrainingDataError, match="must be text"):
        TextClassifier(folder).fit([1.0, 2.0], [0, 1])
    with pytest.raises(TrainingDataError, match="two classes"):
        TextClassifier(folder).fit(["a", "b"], [0, 0])
    with pytest.raises(TrainingDataError, match="as many rows"):
        TextRegressor(folder).fit(["a", "b"], [0.5])
    with pytest.raises(NotFittedError):
        TextClassifier(folder).predict(["a"])


MEANINGFUL = {
    "check_estimator_cloneable", "check_estimator_tags_renamed", "check_valid_tag_types", "check_estimator_repr",
    "check_no_attributes_set_in_init", "check_estimators_unfitted", "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order", "check_estimators_partial_fit_n_features", "check_supervised_y_no_nan",
    "check_parameters_default_constructible", "check_get_params_invariance", "check_set_params", "check_fit1d",
}  # fmt: skip


@pytest.mark.parametrize("kind", [TextClassifier, TextRegressor])
def test_check_estimator_as_far_as_text_allows(kind):
    """Every check is run, as if X could be numbers: those that do not fit on numbers must pass."""

    class TakesNumbers(kind):
        def __sklearn_tags__(self):
            tags = super().__sklearn_tags__()
            tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.no_validation = True, False, False
            return tags

    results = check_estimator(TakesNumbers("nowhere", max_steps=1), on_fail=None, on_skip=None)
    assert {each["check_name"] for each in results if each["status"] == "passed"} >= MEANINGFUL
