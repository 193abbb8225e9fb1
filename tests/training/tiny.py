"""Tiny models and rows for the tests of training."""

import numpy as np
import torch

from martlet import AutoConfig, AutoModelForCausalLM

SIZES = dict(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip


def tiny_model(model_type="llama", dtype=torch.float32, **sizes):
    """A causal LM with weights large enough to tell mistakes; always the same ones."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **sizes}), dtype=dtype)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.1)
    return model


def make_rows(count=12, seed=1, least=3, most=16):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(least, most + 1, (count,), generator=generator).tolist()
    return [{"input_ids": torch.randint(0, 61, (n,), generator=generator).tolist()} for n in lengths]


class Words:
    """As much of a tokenizer as masking needs."""

    mask_token_id, pad_token_id, padding_side = 60, 0, "right"

    def __len__(self):
        return 61

    def get_special_tokens_mask(self, ids, already_has_special_tokens):
        return [0] * len(ids)

    def pad(self, rows, padding, max_length, pad_to_multiple_of, return_tensors):
        width = max(len(row["input_ids"]) for row in rows)
        rest = [width - len(row["input_ids"]) for row in rows]
        ids = [list(row["input_ids"]) + [0] * more for row, more in zip(rows, rest, strict=True)]
        mask = [[1] * (width - more) + [0] * more for more in rest]
        made = {"input_ids": np.array(ids), "attention_mask": np.array(mask)}
        return {name: torch.from_numpy(each) for name, each in made.items()} if return_tensors == "pt" else made


def weights_of(model):
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, each in ours.items():
        assert torch.equal(each, theirs[name]), name


def assert_near(ours, theirs, rtol=1e-4, atol=1e-5):
    assert ours.keys() == theirs.keys()
    for name, each in ours.items():
        torch.testing.assert_close(
            each, theirs[name], rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )
