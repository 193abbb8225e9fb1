"""Real config.json texts, every size made small and every choice kept: logits equal Hugging Face's."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import martlet

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))
from sibling_configs import CONFIGS
from test_known_configs import hugging_face

gguf_files = pytest.importorskip("gguf_files", reason="needs the gguf package", exc_type=ModuleNotFoundError)

WIDTH, HEADS, VOCABULARY, POSITIONS, WINDOW, TRAINED = 160, 4, 96, 64, 5, 16
SMALL = {"hidden_size": WIDTH, "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "head_dim": 24}
SMALL |= {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_head": HEADS, "n_ctx": POSITIONS, "n_positions": POSITIONS}
SMALL |= {"num_attention_heads": HEADS, "max_position_embeddings": POSITIONS, "sliding_window": WINDOW}
SMALL |= {"dim": WIDTH, "hidden_dim": 48, "n_heads": HEADS}
SMALL |= {"original_max_position_embeddings": TRAINED, "sliding_window_size": WINDOW}


def shrink(values: dict[str, Any]) -> dict[str, Any]:
    """The same keys: sizes small, windows and trained lengths shorter than the prompts of the test."""
    small = copy.deepcopy(values)
    small |= {key: SMALL[key] for key in SMALL.keys() & values.keys() if values[key] is not None}
    # an encoder's table of positions begins after the padding's
    small |= {key: None for key in values if key.endswith("_token_id") and values["model_type"] not in ENCODERS}
    for key in {"num_hidden_layers", "n_layer", "n_layers"} & values.keys():
        small[key] = 7 if values["model_type"] == "gemma3_text" else 4
    small |= {key: found[: small["num_hidden_layers"]] for key, found in values.items() if key in PER_LAYER and found}
    if values.get("max_window_layers") is not None:
        small["max_window_layers"] = 2
    heads = values.get("num_attention_heads")
    if values.get("num_key_value_heads") is not None:
        small["num_key_value_heads"] = HEADS if values["num_key_value_heads"] == heads else 2
    if "word_embed_proj_dim" in values:
        small["word_embed_proj_dim"] = WIDTH if values["word_embed_proj_dim"] == values["hidden_size"] else 16
    table = small.get("rope_scaling") or small.get("rope_parameters") or {}
    pairs = int(WIDTH // HEADS * values.get("partial_rotary_factor", 1.0)) // 2
    for key in {"long_factor", "short_factor"} & table.keys():
        table[key] = table[key][:pairs]
    if "original_max_position_embeddings" in table:
        table["original_max_position_embeddings"] = TRAINED
    return small


ENCODERS = ("bert", "distilbert", "roberta", "xlm-roberta")
PER_LAYER = ("layer_types", "no_rope_layers")


@pytest.mark.parametrize("name", CONFIGS, ids=[name.split("/")[-1] for name in CONFIGS])
def test_logits(name: str, tmp_path: Path) -> None:
    values = shrink(CONFIGS[name])
    config = hugging_face(values)
    kind = "AutoModelForMaskedLM" if values["model_type"] in ENCODERS else "AutoModelForCausalLM"
    theirs = gguf_files.fill_random(config, 0.1, seed=1, kind=getattr(transformers, kind))
    theirs.save_pretrained(tmp_path)
    ours = getattr(martlet, kind).from_pretrained(tmp_path, config=values, dtype="float32")
    for length in (TRAINED - 4, 3 * TRAINED):  # the rotation of some changes beyond the trained length
        ids = torch.randint(3, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            want, found = theirs(ids).logits, ours(ids).logits
        assert want.abs().max() > 0.05
        torch.testing.assert_close(found, want, atol=2e-4, rtol=1e-4)
