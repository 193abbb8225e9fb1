"""Damaged and hostile tokenizers and inputs: an error of ours, or a right answer."""

import contextlib
import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

import martlet
from martlet.errors import ChatTemplateError, MartletError, TokenizerError
from martlet.tokenizers.sentencepiece import read_sentencepiece

VOCAB = {chr(97 + i): i for i in range(26)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizers.Tokenizer(tokenizers.models.BPE(vocab=VOCAB, merges=[])).save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def tokenizer(folder):
    return martlet.AutoTokenizer.from_pretrained(folder)


def test_cut_at_every_place(folder, tmp_path):
    whole = (folder / "tokenizer.json").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "tokenizer.json").write_bytes(whole[:length])
        with pytest.raises(MartletError) as caught:
            martlet.AutoTokenizer.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "lie",
    [
        {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
        {"model": {"type": "Evil"}},
        {"model": None},
        {"added_tokens": [{"id": 2**70, "content": "x", "special": True}]},
        {"added_tokens": "all of them"},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "((((("}, "behavior": "Isolated", "invert": False}},
    ],
)
def test_lies(folder, tmp_path, lie):
    data = {**json.loads((folder / "tokenizer.json").read_text()), **lie}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(MartletError):
        martlet.AutoTokenizer.from_pretrained(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_sentencepiece_of_any_bytes(data):
    with contextlib.suppress(TokenizerError):
        read_sentencepiece(data, "tokenizer.model")


@pytest.mark.parametrize("given_", [None, 5, [None], [5], {"text": "a"}, [["a", 5]], b"bytes"])
def test_inputs_that_are_no_text(tokenizer, given_):
    with pytest.raises(MartletError):
        tokenizer(given_)


def test_texts_at_the_edge(tokenizer):
    assert tokenizer("")["input_ids"] == []
    assert tokenizer("\0a\0")["input_ids"] == [0]
    assert len(tokenizer("a" * 1_000_000)["input_ids"]) == 1_000_000
    with pytest.raises(MartletError, match="surrogate"):
        tokenizer("a\ud800b")


def test_ids_that_are_none(tokenizer):
    for ids in (["a"], [2**80], [None], "abc"):
        with pytest.raises(MartletError):
            tokenizer.decode(ids)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}",
        "{{ 'a' * 10**12 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include '/etc/passwd' %}",
        "{{ messages",
        "{{ raise_exception('no') }}",
    ],
)
def test_templates(tokenizer, template):
    with pytest.raises(ChatTemplateError) as caught:
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], chat_template=template, tokenize=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"pad_token": "\\ud800"}', "must hold Unicode text; found .ud800, half of a surrogate pair"),
        ('{"model_max_length": NaN}', "model_max_length must be a number; found nan"),
        ('{"model_max_length": -Infinity}', "model_max_length must be a number; found -inf"),
    ],
)
def test_configs_that_lie(folder, tmp_path, config, said):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(TokenizerError, match=said):
        martlet.AutoTokenizer.from_pretrained(tmp_path)


def test_a_post_processor_that_adds_what_has_no_id(folder, tmp_path):
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "special_tokens": {},
    }
    for processor in (template, {"type": "Sequence", "processors": [template]}):
        data = {**json.loads((folder / "tokenizer.json").read_text()), "post_processor": processor}
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
        with pytest.raises(TokenizerError, match="its post_processor adds '</s>', to which it gives no id"):
            martlet.AutoTokenizer.from_pretrained(tmp_path)


def test_ids_too_sparse_to_be_written(folder, tmp_path):
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"]["vocab"]["far"] = 2**31
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = martlet.AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"'far': has an id that is too large among 27 tokens; found 2147483648"):
        tokenizer.save_pretrained(tmp_path / "out")
