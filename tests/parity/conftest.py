"""Hugging Face's tiny model of each family with weights large enough to tell mistakes, saved once a run."""

import copy
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", params=sorted(__import__("tiny_models").TINY))
def family_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def reference(family_name: str):  # type: ignore[no-untyped-def]
    """Hugging Face's model in float32."""
    import torch
    import transformers
    from tiny_models import TINY

    model_type, keywords = TINY[family_name]
    torch.manual_seed(len(family_name))
    config = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(keywords))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3)
        else:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="session")
def folder(reference, family_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("hf") / family_name
    reference.save_pretrained(path)
    return path
