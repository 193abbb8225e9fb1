"""GGUF files of every family llama.cpp has, against the Hugging Face model they were made of: logits and greedy ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import GEMMA, LLAMA3, LONG, SMALL, TINY

import martlet

gguf_files = pytest.importorskip("gguf_files", reason="needs the gguf package", exc_type=ModuleNotFoundError)

TOLERANCE = 2e-4  # float32, logits up to 10, a few hundred additions in another order
ALL_HEADS = SMALL | {"num_key_value_heads": 4}
WIDE = ALL_HEADS | {"intermediate_size": 128}
LLAMA31 = LLAMA3 | {"rope_theta": 500_000.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}

# What no GGUF file can say is set to what it is taken to be.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": TINY["llama"],
    "llama-tied": ("llama", ALL_HEADS | {"tie_word_embeddings": True}),
    "llama-biased": TINY["llama-biased"],
    "llama-3.1": ("llama", SMALL | {"rope_parameters": LLAMA31, "tie_word_embeddings": True}),
    "llama-3.1-other-length": TINY["llama-3.1"],
    "llama-linear": ("llama", SMALL | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral": ("mistral", SMALL | {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("qwen2", SMALL),
    "qwen2-yarn": ("qwen2", SMALL | {"rope_parameters": YARN}),
    "qwen2-yarn-all": (
        "qwen2",
        SMALL | {"rope_parameters": YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25}},
    ),
    "qwen3": TINY["qwen3"],
    "phi3": ("phi3", SMALL),
    "phi3-window": ("phi3", SMALL | {"sliding_window": 5}),
    "phi3-long": TINY["phi3-long"],
    "phi4": (
        "phi3",
        SMALL
        | {
            "rope_parameters": LONG
            | {"short_factor": [1.0, 1.5], "long_factor": [1.0, 3.0], "partial_rotary_factor": 0.5},
            "original_max_position_embeddings": 24,
            "tie_word_embeddings": True,
        },
    ),
    "gemma": TINY["gemma"],
    "gemma2": ("gemma2", SMALL | GEMMA | {"num_hidden_layers": 4, "query_pre_attn_scalar": 16}),
    "gemma3": ("gemma3_text", SMALL | GEMMA | {"num_hidden_layers": 7, "query_pre_attn_scalar": 16}),
    "gemma3-scaled": TINY["gemma3"],
    "gpt2": TINY["gpt2"],
    "gpt2-untied": ("gpt2", TINY["gpt2"][1] | {"tie_word_embeddings": False}),
    "gpt_neox": TINY["gpt_neox"],
    "gpt_neox-serial": TINY["gpt_neox-serial"],
    "phi": ("phi", WIDE),
    "smollm3": TINY["smollm3"],
    "granite": TINY["granite"],
    "olmo2": TINY["olmo2"],
}
MORE_KEYS: dict[str, dict[str, Any]] = {
    "gemma3-scaled": {"attention__scale": 12**-0.5, "attention__sliding_window_pattern": 6},
}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Hugging Face's model, and the GGUF file of it."""
    model = gguf_files.make_model(*CASES[request.param], seed=len(request.param))
    path = tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf"
    return model, gguf_files.write_gguf(model, path, **MORE_KEYS.get(request.param, {}))


@pytest.fixture(scope="module")
def ours(pair: tuple[Any, Path]) -> Any:
    return martlet.AutoModelForCausalLM.from_pretrained(pair[1])


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


def random_ids(length: int) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randint(3, 96, (2, length))


@pytest.mark.parametrize("length", [20, 40])
def test_logits(pair: tuple[Any, Path], ours: Any, length: int) -> None:
    want = logits_of(pair[0], random_ids(length))
    assert want.abs().max() > 0.5
    torch.testing.assert_close(logits_of(ours, random_ids(length)), want, atol=TOLERANCE, rtol=1e-4)


def test_greedy_ids(pair: tuple[Any, Path], ours: Any) -> None:
    prompt = random_ids(20)[:1]
    want = pair[0].generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False)
    assert ours.generate(prompt, max_new_tokens=16, do_sample=False).tolist() == want.tolist()


def test_weights_are_those_of_the_model_bit_for_bit(pair: tuple[Any, Path], ours: Any, tmp_path: Path) -> None:
    """But for Gemma's norms, whose 1 was added in float32."""
    pair[0].save_pretrained(tmp_path)
    direct = martlet.AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    found = ours.state_dict()
    assert found.keys() == direct.keys()
    for name, weight in direct.items():
        if pair[0].config.model_type in gguf_files.PLUS_ONE and name.endswith("norm.weight"):
            torch.testing.assert_close(found[name], weight, atol=2e-7, rtol=0)
        else:
            assert torch.equal(found[name], weight), name


def test_saved_again_hugging_face_loads_it(pair: tuple[Any, Path], ours: Any, tmp_path: Path) -> None:
    """What the file's keys became is a config.json in Hugging Face's own words."""
    ours.save_pretrained(tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    want = logits_of(pair[0], random_ids(40))
    torch.testing.assert_close(logits_of(theirs, random_ids(40)), want, atol=TOLERANCE, rtol=1e-4)


# Rows of 256, as the K types need; phi3, gpt_neox, gpt2 and gemma2 for what is fused, turned round or shifted.
BIG = SMALL | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "tie_word_embeddings": False}
BIG_GPT2 = TINY["gpt2"][1] | {"n_embd": 256, "n_layer": 2}
BIG_NEOX = {key: value for key, value in BIG.items() if key != "num_key_value_heads"}
BIG_GEMMA2 = BIG | {"head_dim": 64, "sliding_window": 5, "query_pre_attn_scalar": 64, "tie_word_embeddings": True}
BLOCK_TYPES = (*gguf_files.SCALES, "F16", "BF16")
PACKED = [
    *(("llama", BIG, block_type) for block_type in BLOCK_TYPES),
    *(("phi3", BIG, block_type) for block_type in ("Q4_K", "Q8_0")),
    *(("gpt_neox", BIG_NEOX, block_type) for block_type in ("Q5_K", "Q4_1")),
    *(("gpt2", BIG_GPT2, block_type) for block_type in ("Q6_K", "Q5_0")),
    *(("gemma2", BIG_GEMMA2, block_type) for block_type in ("Q4_K", "IQ4_XS")),
    *(("qwen2", BIG, block_type) for block_type in ("Q4_K", "Q2_K")),
]


@pytest.mark.parametrize(
    ("model_type", "keywords", "block_type"), PACKED, ids=[f"{kind}-{blocks}" for kind, _, blocks in PACKED]
)
def test_packed_weights_are_the_values_they_stand_for(
    model_type: str, keywords: dict[str, Any], block_type: str, tmp_path: Path
) -> None:
    """The gguf package's own dequantizer gives the model its weights: they and the logits must be ours."""
    model = gguf_files.make_model(model_type, keywords)
    path = gguf_files.write_gguf(model, tmp_path / "packed.gguf", gguf_files.pack(model, block_type))
    ours = martlet.AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    model.save_pretrained(tmp_path / "unpacked")
    direct = martlet.AutoModelForCausalLM.from_pretrained(tmp_path / "unpacked").state_dict()
    for name, weight in ours.state_dict().items():
        if weight.ndim == 2:
            assert torch.equal(weight, direct[name]), name
    want = logits_of(model, random_ids(20))
    assert want.abs().max() > 0.5
    torch.testing.assert_close(logits_of(ours, random_ids(20)), want, atol=TOLERANCE, rtol=1e-4)
