"""The checkpoint that pipelines are tested on."""

from pathlib import Path

import pytest
from chat_model import save_chat_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipelines") / "tiny"
    save_chat_model(path)
    return path
