"""Collators held against transformers' own, with its tokenizer and with ours."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import transformers  # noqa: E402

import martlet.datasets as ours  # noqa: E402
from martlet.errors import ArgumentError, DatasetError  # noqa: E402

ROWS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]


@pytest.fixture(scope="module", params=["right", "left"])
def tokenizer(request):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {
        word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(60))])
    }
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, padding_side=request.param, **{f"{name}_token": token for name, token in names.items()}
    )


def same(mine, theirs):
    assert set(mine) == set(theirs)
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(mine[name], value) and mine[name].dtype == value.dtype, name
        elif isinstance(value, np.ndarray):
            assert np.array_equal(mine[name], value) and mine[name].dtype.kind == value.dtype.kind, name
        else:
            assert mine[name] == value, name


def rows(**columns):
    return [{"input_ids": list(ids), **{k: v(i, ids) for k, v in columns.items()}} for i, ids in enumerate(ROWS)]


@pytest.mark.parametrize("kind", ["pt", "np"])
@pytest.mark.parametrize(
    "extra", [{}, {"pad_to_multiple_of": 4}, {"padding": "max_length", "max_length": 9}, {"padding": "longest"}]
)
def test_padding(tokenizer, kind, extra):
    data = rows(label=lambda i, _: i, attention_mask=lambda _, ids: [1] * len(ids))
    args = {"tokenizer": tokenizer, "return_tensors": kind, **extra}
    same(ours.DataCollatorWithPadding(**args)(data), transformers.DataCollatorWithPadding(**args)(data))
    columns = {name: [row[name] for row in data] for name in data[0]}
    same(ours.DataCollatorWithPadding(**args)(columns), transformers.DataCollatorWithPadding(**args)(columns))
    data = rows(labels=lambda i, ids: [i] * len(ids))
    same(
        ours.DataCollatorForTokenClassification(**args)(data),
        transformers.DataCollatorForTokenClassification(**args)(data),
    )
    data = rows(labels=lambda i, ids: [i] * (4 - i))
    same(ours.DataCollatorForSeq2Seq(**args)(data), transformers.DataCollatorForSeq2Seq(**args)(data))


def test_seq2seq_asks_the_model(tokenizer):
    class Model:
        def prepare_decoder_input_ids_from_labels(self, labels):
            return labels + 1

    data = rows(labels=lambda i, ids: [i] * (4 - i))
    same(
        ours.DataCollatorForSeq2Seq(tokenizer, model=Model())(data),
        transformers.DataCollatorForSeq2Seq(tokenizer, model=Model())(data),
    )
    assert ours.DataCollatorForSeq2Seq(tokenizer)(rows())["labels"] is None


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_causal(tokenizer, kind):
    for data in (rows(), [list(ids) for ids in ROWS]):
        args = {"tokenizer": tokenizer, "mlm": False, "return_tensors": kind, "pad_to_multiple_of": 2}
        same(
            ours.DataCollatorForLanguageModeling(**args)(data),
            transformers.DataCollatorForLanguageModeling(**args)(data),
        )


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_masking_is_a_function_of_seed_row_and_place(tokenizer, kind):
    rng = np.random.default_rng(0)
    data = [{"input_ids": rng.integers(5, 60, 200).tolist(), "special_tokens_mask": [1] + [0] * 199} for _ in range(40)]

    def collated(batches, seed=3):
        collator = ours.DataCollatorForLanguageModeling(tokenizer, seed=seed, return_tensors=kind)
        parts = [collator(batch) for batch in batches]
        return [np.concatenate([np.asarray(part[name]) for part in parts]) for name in ("input_ids", "labels")]

    ids, labels = collated([data])
    for again, same_as in zip(collated([data[:7], data[7:8], data[8:]]), (ids, labels), strict=True):
        assert np.array_equal(again, same_as)
    assert not np.array_equal(collated([data], seed=4)[1], labels)
    original = np.array([row["input_ids"] for row in data])
    chosen = labels != -100
    assert (labels[:, 0] == -100).all() and np.array_equal(labels[chosen], original[chosen])
    assert np.array_equal(ids[~chosen], original[~chosen])
    share = chosen[:, 1:].mean()
    masked = (ids[chosen] == tokenizer.mask_token_id).mean()
    kept = (ids[chosen] == original[chosen]).mean()
    assert abs(share - 0.15) < 0.02 and abs(masked - 0.8) < 0.04 and abs(kept - 0.1) < 0.04
    assert not np.array_equal(chosen[0], chosen[1])


def test_whole_words(tokenizer):
    ids = list(range(5, 45))
    spans = [(i + i // 4, i + i // 4 + 1) for i in range(40)]  # a gap after each four
    data = [{"input_ids": ids, "special_tokens_mask": [0] * 40, "offset_mapping": spans} for _ in range(20)]
    collator = ours.DataCollatorForLanguageModeling(tokenizer, seed=1, whole_word_mask=True, mlm_probability=0.3)
    chosen = (collator(data)["labels"] != -100).reshape(20, 10, 4)
    assert ((chosen.sum(-1) == 4) | (chosen.sum(-1) == 0)).all() and 0.2 < chosen.float().mean() < 0.4


@pytest.mark.parametrize("kind", ["pt", "np"])
@pytest.mark.parametrize("has_labels", [True, False])
def test_packing(kind, has_labels):
    data = rows(labels=lambda i, ids: [7] * len(ids)) if has_labels else rows()
    args = {"return_flash_attn_kwargs": True, "return_seq_idx": True, "position_ids_start": 2}
    mine = ours.DataCollatorWithFlattening(**args)(data, return_tensors=kind)
    theirs = transformers.DataCollatorWithFlattening(**args)(data, return_tensors=kind)
    same(mine, theirs)


@pytest.mark.parametrize("kind", ["pt", "np"])
@pytest.mark.parametrize(
    "data",
    [
        [{"label": i, "x": [1, 2]} for i in range(3)],
        [{"label": 0.5, "x": 1.5, "name": "text"}] * 2,
        [{"label_ids": [0, 1], "x": np.ones(3)}] * 2,
        [{"x": torch.ones(2), "label": torch.tensor(1)}] * 2,
    ],
)
def test_default(kind, data):
    if kind == "np" and isinstance(data[0]["x"], torch.Tensor):
        pytest.skip("theirs makes arrays of tensors")
    same(ours.default_data_collator(data, kind), transformers.default_data_collator(data, kind))
    same(ours.DefaultDataCollator(kind)(data), transformers.DefaultDataCollator(kind)(data))


def test_errors(tokenizer):
    with pytest.raises(ArgumentError, match="return_tensors"):
        ours.DataCollatorWithPadding(tokenizer, return_tensors="tf")
    with pytest.raises(ArgumentError, match="sum"):
        ours.DataCollatorForLanguageModeling(tokenizer, mask_replace_prob=0.9, random_replace_prob=0.2)
    with pytest.raises(DatasetError, match="column 'x'"):
        ours.default_data_collator([{"x": [1]}, {"x": [1, 2]}])
    with pytest.raises(DatasetError, match="needs a row"):
        ours.DataCollatorWithFlattening()([{"input_ids": []}])
