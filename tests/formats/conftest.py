"""Real models for the formats' tests: found under $MARTLET_MODELS or `models/`, skipped where they are not."""

import os
from pathlib import Path

import pytest

MODELS = Path(os.environ.get("MARTLET_MODELS", Path(__file__).parents[2] / "models"))


def real(name: str) -> Path:
    found = next(MODELS.rglob(name), None) if MODELS.is_dir() else None
    if found is None:
        pytest.skip(f"{name} is not under {MODELS}; set MARTLET_MODELS to a folder that has it")
    return found


@pytest.fixture
def smollm2() -> Path:
    return real("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture
def minilm() -> Path:
    return real("modules.json").parent
