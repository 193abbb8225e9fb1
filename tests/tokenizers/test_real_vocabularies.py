"""AutoTokenizer against transformers on real vocabularies: ids, masks, offsets, templates, saving, streaming."""

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import martlet
from martlet.tokenizers.streaming import StreamDetokenizer

pytestmark = [pytest.mark.slow, pytest.mark.downloads]
TEXTS = [
    "The martlet is a bird that never lands.",
    "  leading, trailing  \n\n\ttabs\r\nand 12345678 numbers 3.14159, don't I'll WE'VE",
    "Grüße, здравствуй, 你好世界, こんにちは, مرحبا, नमस्ते, 한국어",
    "👩‍👩‍👧‍👦 👍🏽 e\u0301 \u200b\ufeff ﬁ ½ Ⅷ",
    "def f(x):\n    return {'a': [x ** 2 for _ in range(10)]}  # code",
    "",
    " ",
    "a" * 300,
]
CHAT = [
    {"role": "user", "content": "Hello, what is 2 + 2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 3 + 3?"},
]


@pytest.fixture(scope="module", params=["qwen3", "llama3", "gemma3", "minilm"])
def pair(request, real_tokenizer):
    folder = request.getfixturevalue("minilm_folder") if request.param == "minilm" else real_tokenizer(request.param)
    return martlet.AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"add_special_tokens": False},
        {"padding": True, "return_offsets_mapping": True, "return_special_tokens_mask": True},
        {"padding": "max_length", "max_length": 24, "truncation": True, "padding_side": "left"},
        {"padding": True, "pad_to_multiple_of": 16, "return_tensors": "np"},
    ],
)
def test_batches(pair, keywords):
    ours, theirs = pair
    if theirs.pad_token is None:
        theirs.pad_token = ours.pad_token = theirs.eos_token
    got, want = ours(TEXTS, **keywords), theirs(TEXTS, **keywords)
    for key in want:
        if key != "token_type_ids" or key in got:
            assert [list(row) for row in got[key]] == [list(row) for row in want[key]], key


def test_pairs_and_words(pair):
    ours, theirs = pair
    got, want = ours(TEXTS[0], TEXTS[1]), theirs(TEXTS[0], TEXTS[1])
    assert got["input_ids"] == want["input_ids"]
    words = [["Hello", "wonderful", "world"], ["again"]]
    got, want = ours(words, is_split_into_words=True), theirs(words, is_split_into_words=True)
    assert got["input_ids"] == want["input_ids"]
    assert [got.word_ids(i) for i in range(2)] == [want.word_ids(i) for i in range(2)]


@pytest.mark.parametrize("skip", [True, False])
def test_decoding(pair, skip):
    ours, theirs = pair
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_special_tokens_and_sizes(pair):
    ours, theirs = pair
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(ours, name) == getattr(theirs, name)
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id")
    assert len(ours) == len(theirs) and ours.get_vocab() == theirs.get_vocab()


@pytest.mark.parametrize("generation", [True, False])
def test_chat_templates(pair, generation):
    ours, theirs = pair
    if not theirs.chat_template:
        pytest.skip("this one has no chat template")
    messages = CHAT if generation else CHAT[:2]
    want = theirs.apply_chat_template(messages, add_generation_prompt=generation, tokenize=False)
    assert ours.apply_chat_template(messages, add_generation_prompt=generation, tokenize=False) == want
    want = theirs.apply_chat_template(messages, add_generation_prompt=generation, return_dict=True)
    got = ours.apply_chat_template(messages, add_generation_prompt=generation, return_dict=True)
    assert got["input_ids"] == want["input_ids"]


def test_saved_both_ways(pair, tmp_path):
    ours, theirs = pair
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    forth = martlet.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    for text in TEXTS:
        assert back(text)["input_ids"] == ours(text)["input_ids"] == forth(text)["input_ids"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40))
def test_a_stream_is_the_whole_in_whole_characters(pair, text):
    ours, _ = pair
    ids = ours(text, add_special_tokens=False)["input_ids"]
    stream = StreamDetokenizer(ours, skip_special_tokens=False)
    pieces = [stream.put(token) for token in ids]
    whole = ours.decode(ids)
    assert "".join(pieces) + stream.end() == whole
    if "\ufffd" not in whole:
        assert not any("\ufffd" in piece for piece in pieces)


def test_the_gguf_tokenizer_is_the_folders(smollm2_gguf, smollm2_folder):
    from_gguf, from_folder = (martlet.AutoTokenizer.from_pretrained(path) for path in (smollm2_gguf, smollm2_folder))
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2_folder)
    for text in TEXTS:
        assert from_gguf(text)["input_ids"] == from_folder(text)["input_ids"] == theirs(text)["input_ids"]
