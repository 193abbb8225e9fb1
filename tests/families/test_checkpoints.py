"""Checkpoints Hugging Face saves: every tensor is found, has the shape its arch asks for, and goes back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import CASES, hf_model

from martlet.arch import Arch, Parts, num_parameters, tensors
from martlet.families import Config, Family
from martlet.formats.files import read_json
from martlet.weights import assemble, check, locate

pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest) -> Any:
    return hf_model(request.param)


def read_folder(folder: Path) -> tuple[Arch, Family, Weights]:
    config = Config(read_json(folder / "config.json"))
    return config.arch, config.family, safetensors.load_file(folder / "model.safetensors")


def take_all(arch: Arch, family: Family, saved: Weights, *, head: bool) -> Weights:
    pieces = locate(saved, family.name_rules(list(saved)), arch)
    check(pieces, {name: tensor.shape for name, tensor in saved.items()}, arch, Parts(lm_head=head))
    return {name: piece.take(saved[piece.source]) for name, piece in pieces.items()}


def put_back(arch: Arch, family: Family, saved: Weights, ours: Weights) -> Weights:
    made = assemble(ours, family.name_rules(list(saved)), arch)
    return {name: assembly.build(ours.__getitem__, np.concatenate) for name, assembly in made.items()}


def assert_same(found: Weights, wanted: Weights) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and np.array_equal(found[name], tensor), name


def test_causal_lm_round_trip(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    arch, family, saved = read_folder(tmp_path)
    assert type(model).__name__ == family.lm_class
    ours = take_all(arch, family, saved, head=True)
    assert {name: tensor.shape for name, tensor in ours.items()} == tensors(arch)
    assert num_parameters(arch) == sum(p.numel() for p in model.parameters())
    assert_same(put_back(arch, family, saved, ours), saved)


def test_base_model_round_trip(model: Any, tmp_path: Path) -> None:
    """Names without the prefix: what `AutoModel` saves, and the first GPT-2 and OPT files on the Hub."""
    model.base_model.save_pretrained(tmp_path)
    arch, family, saved = read_folder(tmp_path)
    assert type(model.base_model).__name__ == family.base_class
    assert not any(name.startswith(family.prefix) for name in saved)
    ours = take_all(arch, family, saved, head=False)
    wanted = {name: shape for name, shape in tensors(arch).items() if not name.startswith("lm_head.")}
    assert {name: tensor.shape for name, tensor in ours.items()} == wanted
    assert_same(put_back(arch, family, saved, ours), saved)


def test_values_are_those_of_the_module_they_feed(model: Any, tmp_path: Path) -> None:
    """The rules' meaning, said a second time: q, k and v by head as each family's own attention splits them."""
    model.save_pretrained(tmp_path)
    arch, family, saved = read_folder(tmp_path)
    ours = take_all(arch, family, saved, head=True)
    x = np.random.default_rng(0).standard_normal((5, arch.hidden_size)).astype(np.float32)
    block = next(m for name, m in model.named_modules() if name.endswith((".layers.1", ".h.1")))
    q, k, v = project(block, x, arch)
    for found, part in zip((q, k, v), "qkv", strict=True):
        weight = ours[f"model.layers.1.self_attn.{part}_proj.weight"]
        bias = ours.get(f"model.layers.1.self_attn.{part}_proj.bias", 0.0)
        np.testing.assert_allclose(found, x @ weight.T + bias, rtol=1e-4, atol=1e-5)


def project(block: Any, x: np.ndarray, arch: Arch) -> tuple[np.ndarray, ...]:
    import torch

    attention = next(m for name, m in block.named_children() if "attn" in name or name == "attention")
    with torch.no_grad():
        states = torch.from_numpy(x)
        if hasattr(attention, "q_proj"):
            return tuple(getattr(attention, f"{part}_proj")(states).numpy() for part in "qkv")
        if hasattr(attention, "c_attn"):
            return tuple(part.numpy() for part in attention.c_attn(states).split(arch.hidden_size, -1))
        if hasattr(attention, "qkv_proj"):
            sizes = [arch.query_size, arch.key_value_size, arch.key_value_size]
            return tuple(part.numpy() for part in attention.qkv_proj(states).split(sizes, -1))
        fused = attention.query_key_value(states).view(len(x), arch.num_attention_heads, 3 * arch.head_dim)
        return tuple(part.reshape(len(x), -1).numpy() for part in fused.chunk(3, -1))


def test_buffers_of_old_checkpoints_are_left_out() -> None:
    arch = Config({"model_type": "gpt2", **CASES["gpt2"][1]}).arch
    family = Config({"model_type": "gpt2"}).family
    names = ["wte.weight", "h.0.attn.bias", "h.0.attn.masked_bias", "h.0.attn.c_attn.bias"]
    pieces = locate(names, family.name_rules(names), arch)
    assert set(pieces) == {"model.embed_tokens.weight"} | {f"model.layers.0.self_attn.{p}_proj.bias" for p in "qkv"}
    neox = Config({"model_type": "gpt_neox"}).family
    names = [
        f"gpt_neox.layers.0.attention.{rest}" for rest in ("bias", "masked_bias", "rotary_emb.inv_freq", "dense.bias")
    ]
    assert list(locate(names, neox.name_rules(names), arch)) == ["model.layers.0.self_attn.o_proj.bias"]
    llama = Config({"model_type": "llama"}).family
    assert not locate(
        ["model.layers.0.self_attn.rotary_emb.inv_freq"], llama.rules + llama.name_rules(["model."]), arch
    )
