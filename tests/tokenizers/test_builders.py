"""Tokenizers built where there is no tokenizer.json, against the packages that define each kind of file."""

import json
import shutil

import pytest
import sentencepiece
import tokenizers
import transformers

import martlet
from martlet.errors import TokenizerError
from martlet.tokenizers.bytelevel import split_merges

TEXTS = ["The cat sat on the mat.", "a cat, the mat; sat!", "  the   cat ", "", "mat\nthe", "ünïcode 猫 🐈"]
CORPUS = ["The cat sat on the mat.", "A dog ran to the other cat.", "the mat was flat and the cat was fat"] * 40


def write_bpe(folder):
    """vocab.json and merges.txt, as GPT-2's."""
    folder.mkdir()
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(CORPUS, vocab_size=320, special_tokens=["<|endoftext|>"])
    trained.save_model(str(folder))
    about = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, "unk_token": "<|endoftext|>"}))


def test_vocab_and_merges(tmp_path):
    write_bpe(tmp_path / "gpt2")
    ours = martlet.AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    theirs = transformers.GPT2TokenizerFast.from_pretrained(tmp_path / "gpt2")
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        assert ours.decode(ours(text)["input_ids"]) == text
    assert ours.eos_token == "<|endoftext|>"


def test_a_merge_of_unknown_tokens_is_named(tmp_path):
    write_bpe(tmp_path / "gpt2")
    with (tmp_path / "gpt2" / "merges.txt").open("a") as merges:
        merges.write("qq zz\n")
    with pytest.raises(TokenizerError, match="'qq' 'zz'"):
        martlet.AutoTokenizer.from_pretrained(tmp_path / "gpt2")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("byte_fallback", [True, False])
def test_sentencepiece_models(tmp_path, kind, byte_fallback):
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type=kind,
        vocab_size=330 if byte_fallback else 60,
        byte_fallback=byte_fallback,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False, "add_eos_token": False}))
    ours = martlet.AutoTokenizer.from_pretrained(tmp_path)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in TEXTS:
        assert ours(text, add_special_tokens=False)["input_ids"] == theirs.encode(text)
    assert ours.bos_token == "<s>" and ours.eos_token == "</s>"


@pytest.mark.slow
@pytest.mark.downloads
def test_wordpiece_vocabularies(tmp_path, minilm_folder):
    shutil.copy(minilm_folder / "vocab.txt", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    ours = martlet.AutoTokenizer.from_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(minilm_folder)
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs(text, padding=False, truncation=False)["input_ids"]


def test_tokenizer_json_is_the_truth(tmp_path):
    write_bpe(tmp_path / "model")
    vocab = {chr(97 + i): i for i in range(26)}
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    plain.save(str(tmp_path / "model" / "tokenizer.json"))
    assert martlet.AutoTokenizer.from_pretrained(tmp_path / "model")("cab")["input_ids"] == [2, 0, 1]


def test_a_folder_without_any_of_them(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        martlet.AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("lines", [[], ["a b"], ["a b", "é ü", "c\0 d"], ["Ġ a"] * 300])
def test_merges_are_pairs(lines):
    assert split_merges(iter(lines), "x") == [tuple(line.split(" ")) for line in lines]


@pytest.mark.parametrize("wrong", ["ab", "a b c", "a ", " b", ""])
def test_merges_that_are_no_pairs_are_named(wrong):
    with pytest.raises(TokenizerError, match="merge 3 must be two tokens and a space"):
        split_merges(["a b", "c d", wrong], "x")
