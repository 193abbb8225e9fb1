"""New vocabularies, and tokenizers made from a backend or files, beside transformers'."""

import json

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import martlet
from martlet.errors import ArgumentError, TokenizerError, UnsupportedError

TEXTS = ["low low low low lower lower newest newest newest newest widest widest widest"] * 4
LIBRARIES = (transformers, martlet)


def byte_level():
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["hello world, this is it"] * 3, trainer)
    template = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return backend


def word_pieces():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
    backend = tokenizers.Tokenizer(
        models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.add_special_tokens(words[:5])
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return backend


def pieces():
    backend = tokenizers.Tokenizer(models.Unigram([("x", -1.0), ("<unk>", 0.0)], 1))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return backend


KINDS = {
    "BPE": (byte_level, {"bos_token": "<s>", "eos_token": "</s>"}),
    "WordPiece": (
        word_pieces,
        {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    ),
    "Unigram": (pieces, {"unk_token": "<unk>"}),
}


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    make, named = KINDS[request.param]
    make().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}))
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [{}, {"new_special_tokens": ["<new>"]}, {"special_tokens_map": {"[CLS]": "[BEGIN]", "<unk>": "<none>"}}],
    ids=["plain", "more", "renamed"],
)
def test_trained_as_transformers(folder, options):
    """Of WordPiece and Unigram the trainers break ties by chance, so only what no tie decides is compared."""
    answers = []
    for library in LIBRARIES:
        old = library.AutoTokenizer.from_pretrained(folder)
        size = 275 if type(old.backend_tokenizer.model).__name__ == "BPE" else 60
        new = old.train_new_from_iterator((TEXTS[i : i + 2] for i in (0, 2)), size, show_progress=False, **options)
        assert type(new.backend_tokenizer.model) is type(old.backend_tokenizer.model)
        named = {name: (token, new.convert_tokens_to_ids(token)) for name, token in new.special_tokens_map.items()}
        ids = new("low newest", "widest").input_ids
        ends = [ids[0], ids[-1]] if new.cls_token else []
        is_bpe = type(new.backend_tokenizer.model).__name__ == "BPE"
        added = new.convert_tokens_to_ids("<new>")
        answers.append([sorted(new.get_vocab()) if is_bpe else None, ids if is_bpe else None, named, ends, added])
        assert new.decode(new("low newest").input_ids, skip_special_tokens=True).strip() == "low newest"
    assert answers[0] == answers[1]


def test_a_trained_tokenizer_is_saved_and_read(folder, tmp_path):
    new = martlet.AutoTokenizer.from_pretrained(folder).train_new_from_iterator(TEXTS, 60, show_progress=False)
    new.save_pretrained(tmp_path / "out")
    for library in LIBRARIES:
        again = library.AutoTokenizer.from_pretrained(tmp_path / "out")
        assert again("low newest widest").input_ids == new("low newest widest").input_ids
    paths = new.save_vocabulary(tmp_path / "vocabulary", "my")
    assert paths and all((tmp_path / "vocabulary").joinpath(path).stat().st_size for path in paths)


def test_what_cannot_be_trained(folder):
    tokenizer = martlet.AutoTokenizer.from_pretrained(folder)
    for texts, size, options in ((TEXTS, 0, {}), (TEXTS, 60, {"no_such": 1}), ([1, 2], 60, {})):
        with pytest.raises(ArgumentError):
            tokenizer.train_new_from_iterator(texts, size, show_progress=False, **options)


def test_made_of_a_backend(tmp_path):
    answers = []
    for library in LIBRARIES:
        backend = byte_level()
        made = library.PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
        )
        assert isinstance(made, library.PreTrainedTokenizerFast) and isinstance(made, library.PreTrainedTokenizerBase)
        bert = library.BertTokenizerFast(tokenizer_object=word_pieces())
        word_pieces().save(str(tmp_path / "w.json"))
        read = library.PreTrainedTokenizerFast(
            tokenizer_file=str(tmp_path / "w.json"), unk_token="[UNK]", padding_side="left"
        )
        answers.append(
            [
                made(["hello", "hello world"], padding=True).data,
                made.special_tokens_map,
                made.padding_side,
                made.model_input_names,
                bert("ab a", "c").data,
                bert.special_tokens_map,
                library.GPT2TokenizerFast(tokenizer_object=byte_level()).eos_token,
                read("ab a").data,
                read.padding_side,
            ]
        )
        made.add_tokens(["<another>"])
        assert backend.token_to_id("<another>") is None  # it has a backend of its own
    assert answers[0] == answers[1]


def test_made_of_a_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n##s\n")
    tokenizer = martlet.BertTokenizer(vocab_file=tmp_path / "vocab.txt")
    assert tokenizer("Hellos").input_ids == [2, 5, 6, 3]
    with pytest.raises(TokenizerError, match=r"must be one of .txt, .json, .model"):
        martlet.BertTokenizer(vocab_file="vocab.bin")
    for wrong in ({}, {"tokenizer_object": "text"}, {"tokenizer_object": byte_level(), "no_such": 1}):
        with pytest.raises(ArgumentError):
            martlet.PreTrainedTokenizerFast(**wrong)


def test_a_model_without_a_trainer():
    class Strange:
        def to_str(self, pretty):
            return '{"model": {"type": "Other"}, "added_tokens": [], "post_processor": null}'

        def get_vocab(self):
            return {}

    tokenizer = martlet.PreTrainedTokenizerFast(tokenizer_object=byte_level())
    tokenizer._backend = Strange()
    with pytest.raises(UnsupportedError, match="cannot train a Other model"):
        tokenizer.train_new_from_iterator(TEXTS, 60)
