"""docs/add-a-family.md does what it says: its file is run as it stands and the family compared with Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SMALL

import martlet
from martlet.errors import ConfigError, UnknownFamilyError
from martlet.families import FAMILIES, Config, load_families

gguf_files = pytest.importorskip("gguf_files", reason="needs the gguf package", exc_type=ModuleNotFoundError)

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "add-a-family.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
KEYWORDS = SMALL | {"sliding_window": 5, "tie_word_embeddings": False}


@pytest.fixture
def starcoder2() -> Iterator[dict[str, Any]]:
    """The page's file, run; the family is there until the test is over."""
    assert "starcoder2" not in load_families()
    (source,) = (block for block in BLOCKS if block.startswith('"""'))
    made: dict[str, Any] = {"__name__": "starcoder2"}
    exec(compile(source, "docs/add-a-family.md", "exec"), made)
    yield made
    del FAMILIES["starcoder2"]


def test_what_it_quotes_is_in_the_tree() -> None:
    quoted = [block.split("\n", 1) for block in BLOCKS if block.startswith("# ")]
    assert quoted
    for first, text in quoted:
        assert text in (REPOSITORY / first.removeprefix("# ")).read_text(encoding="utf-8")


def test_files_it_names_are_there() -> None:
    paths = re.findall(r"`((?:src|tests)/[\w/.]+)`", PAGE)
    assert len(paths) > 8 and all((REPOSITORY / path).exists() for path in paths)


def test_its_family_is_small(starcoder2: dict[str, Any]) -> None:
    (source,) = (block for block in BLOCKS if block.startswith('"""'))
    code = [line for line in source.splitlines() if line and not line.startswith(("from ", '"""'))]
    assert len(code) <= 30


@pytest.mark.parametrize("changes", [{}, {"sliding_window": None, "tie_word_embeddings": True}, {"use_bias": False}])
def test_its_family_equals_hugging_faces(starcoder2: dict[str, Any], changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = gguf_files.make_model("starcoder2", KEYWORDS | changes)
    theirs.save_pretrained(tmp_path)
    ours = martlet.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(3, 96, (2, 20), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        want, found = theirs(ids).logits, ours(ids).logits
    assert want.abs().max() > 0.5
    torch.testing.assert_close(found, want, atol=2e-4, rtol=1e-4)
    ours.save_pretrained(tmp_path / "again")
    again = type(theirs).from_pretrained(tmp_path / "again", attn_implementation="eager")
    with torch.no_grad():
        assert torch.equal(again(ids).logits, want)


def test_its_gguf_dialect(starcoder2: dict[str, Any], tmp_path: Path) -> None:
    """A GGUF file does not say the window."""
    theirs = gguf_files.make_model("starcoder2", KEYWORDS | {"sliding_window": None})
    ours = martlet.AutoModelForCausalLM.from_pretrained(gguf_files.write_gguf(theirs, tmp_path / "tiny.gguf"))
    ids = torch.randint(3, 96, (2, 20), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=2e-4, rtol=1e-4)


def test_its_family_fails_closed(starcoder2: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="starcoder2 config: key 'alibi' is not one this family reads"):
        Config({"model_type": "starcoder2", **KEYWORDS, "alibi": True}).arch  # noqa: B018


def test_without_it_the_family_is_unknown_and_the_error_names_the_page() -> None:
    with pytest.raises(UnknownFamilyError, match=r"found 'starcoder2'.* To add one: docs/add-a-family\.md"):
        Config({"model_type": "starcoder2", **KEYWORDS}).arch  # noqa: B018
