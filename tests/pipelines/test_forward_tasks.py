"""Pipelines of one forward pass against Hugging Face's, on tiny random models with a real tokenizer."""

import math

import pytest
import torch
import transformers

import martlet
from martlet.errors import ArgumentError

CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "vocab_size": 30522,
    "initializer_range": 0.3,
}
TEXTS = ["Ada Lovelace lives in Bernstadtstrasse, quietly.", "The unbelievable martlet never lands!"]
NER = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NLI = {"id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}}
NLI["label2id"] = {name: number for number, name in NLI["id2label"].items()}


@pytest.fixture(scope="module")
def make(minilm_folder, tmp_path_factory):
    """`make(class ending, **config)`: a folder of a tiny model of Hugging Face's with MiniLM's tokenizer."""

    def of(ending, model_type="bert", **config):
        torch.manual_seed(len(ending))
        given = {**CONFIG, **config}
        folder = tmp_path_factory.mktemp("tiny")
        made = transformers.AutoConfig.for_model(model_type, **given)
        getattr(transformers, f"AutoModel{ending}").from_config(made).eval().save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(minilm_folder).save_pretrained(folder)
        return folder

    return of


def same(ours, theirs):
    """Equal in shape, keys and text; numbers to float32's noise."""
    assert type(ours) is type(theirs) or isinstance(ours, float | int), (ours, theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs) or ours.keys() == theirs.keys()
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(theirs, str | int):
        assert ours == theirs
    else:
        assert math.isclose(float(ours), float(theirs), rel_tol=1e-3, abs_tol=1e-5), (ours, theirs)


def both(task, folder, **keywords):
    return martlet.pipeline(task, str(folder), **keywords), transformers.pipeline(task, str(folder), **keywords)


@pytest.mark.parametrize(
    ("config", "call"),
    [
        ({"num_labels": 3}, {}),
        ({"num_labels": 3}, {"top_k": 2}),
        ({"num_labels": 3}, {"top_k": None, "function_to_apply": "sigmoid"}),
        ({"num_labels": 1}, {}),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, {"top_k": None}),
        ({"num_labels": 1, "problem_type": "regression"}, {}),
    ],
)
def test_text_classification(make, config, call):
    ours, theirs = both("text-classification", make("ForSequenceClassification", **config))
    same(ours(TEXTS[0], **call), theirs(TEXTS[0], **call))
    same(ours(TEXTS, batch_size=2, **call), theirs(TEXTS, **call))
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    same(ours(pair, **call), theirs(pair, **call))
    same(list(ours(iter(TEXTS), **call)), theirs(TEXTS, **call))


def test_text_classification_by_its_other_name_and_long_texts(make):
    folder = make("ForSequenceClassification", num_labels=2)
    pipe = martlet.pipeline("sentiment-analysis", str(folder), top_k=1)
    assert pipe.task == "text-classification" and pipe("yes")[0][0].keys() == {"label", "score"}
    long = "word " * 200
    with pytest.raises(ArgumentError, match=r"64 positions of the model.*truncation=True"):
        pipe(long)
    assert pipe(long, truncation=True, max_length=64)
    with pytest.raises(ArgumentError, match="does not take the keyword 'topk'"):
        pipe("yes", topk=2)
    with pytest.raises(ArgumentError, match="function_to_apply: must be one of softmax"):
        pipe("yes", function_to_apply="tanh")
    with pytest.raises(ArgumentError, match="needs a model of AutoModelForTokenClassification"):
        martlet.pipeline("ner", pipe.model)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_token_classification(make, strategy):
    folder = make("ForTokenClassification", id2label=dict(enumerate(NER)), label2id={n: i for i, n in enumerate(NER)})
    ours, theirs = both("token-classification", folder, aggregation_strategy=strategy)
    found = theirs(TEXTS)
    assert any(found)
    same(ours(TEXTS, batch_size=2), found)
    same(ours(TEXTS[0], ignore_labels=[]), theirs(TEXTS[0], ignore_labels=[]))
    if strategy != "none":
        long = " ".join(TEXTS * 8)
        ours.tokenizer.model_max_length = theirs.tokenizer.model_max_length = 40
        same(ours(long, stride=8), transformers.pipeline("ner", str(folder), tokenizer=theirs.tokenizer,
             aggregation_strategy=strategy, stride=8)(long))  # fmt: skip


def test_fill_mask(make):
    ours, theirs = both("fill-mask", make("ForMaskedLM"))
    one, two = "Paris is the [MASK] of France.", "[MASK] is the [MASK]."
    same(ours(one), theirs(one))
    same(ours([one, two], top_k=2), theirs([one, two], top_k=2))
    same(ours(one, targets=["king", "town"]), theirs(one, targets=["king", "town"]))
    with pytest.raises(ArgumentError, match=r"a text must have a mask \(\[MASK\]\)"):
        ours("none here")


def test_feature_extraction(make, minilm_folder):
    ours, theirs = both("feature-extraction", make(""))
    same(ours(TEXTS[0]), theirs(TEXTS[0]))
    same(ours(TEXTS, batch_size=2), theirs(TEXTS))
    assert ours(TEXTS[0], return_tensors=True).shape[-1] == 32


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_classification(make, multi_label):
    ours, theirs = both("zero-shot-classification", make("ForSequenceClassification", **NLI))
    labels = ["politics", "sport", "weather"]
    same(ours(TEXTS[0], labels, multi_label=multi_label), theirs(TEXTS[0], labels, multi_label=multi_label))
    template = {"candidate_labels": "a, b", "hypothesis_template": "It is about {}."}
    same(ours(TEXTS, **template), theirs(TEXTS, **template))
    with pytest.raises(ArgumentError, match="candidate_labels: must name at least one label"):
        ours(TEXTS[0])
    with pytest.raises(ArgumentError, match=r"must have \{\} where the label goes"):
        ours(TEXTS[0], labels, hypothesis_template="It is so.")


def test_question_answering_is_the_best_span_of_the_context(make):
    folder = make("ForQuestionAnswering")
    pipe = martlet.pipeline("question-answering", str(folder))
    reference = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    question, context = "Who never lands?", TEXTS[1]
    encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        out = reference(**encoded)
    inside = torch.tensor([part == 1 for part in encoded.sequence_ids(0)])
    start, end = (
        each[0].masked_fill(~inside, float("-inf")).softmax(-1) for each in (out.start_logits, out.end_logits)
    )
    spans = {
        (a, b): float(start[a] * end[b])
        for a in range(len(start)) for b in range(a, min(len(end), a + 15)) if inside[a] and inside[b]
    }  # fmt: skip
    (first, last), score = max(spans.items(), key=lambda item: item[1])
    got = pipe(question=question, context=context)
    assert math.isclose(got["score"], score, rel_tol=1e-4)
    assert (got["start"], got["end"]) == (offsets[first][0], offsets[last][1])
    assert got["answer"] == context[got["start"] : got["end"]]
    several = pipe({"question": question, "context": context}, top_k=3)
    assert [each["score"] for each in several] == sorted((each["score"] for each in several), reverse=True)
    long = context + " Nothing here." * 60
    assert pipe(question=question, context=long, max_seq_len=40, doc_stride=10)["answer"] in long
    with pytest.raises(ArgumentError, match="must not be empty"):
        pipe(question="", context=context)


def test_a_decoder_classifies_too(make):
    folder = make("ForSequenceClassification", "llama", num_labels=3, pad_token_id=0)
    ours, theirs = both("text-classification", folder)
    same(ours(TEXTS, batch_size=2), theirs(TEXTS))
