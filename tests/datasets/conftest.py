"""A cache of its own for each test, and no bars."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache."""
    monkeypatch.setenv("MARTLET_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
