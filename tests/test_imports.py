"""What importing costs, and the names people import."""

import subprocess
import sys
import tomllib
from pathlib import Path

import martlet

HEAVY = ("torch", "transformers", "huggingface_hub", "tokenizers", "jinja2")
NAMES = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "GenerationConfig",
    "LogitsProcessor",
    "LogitsProcessorList",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TextIteratorStreamer",
    "TextStreamer",
    "pipeline",
    "set_seed",
]


def loaded_by(code: str) -> list[str]:
    show = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], check=True, capture_output=True, text=True)
    return eval(done.stdout)


def test_public_names():
    assert set(NAMES) <= set(martlet.__all__)
    for name in martlet.__all__:
        assert getattr(martlet, name) is not None


def test_importing_loads_nothing_heavy():
    assert loaded_by("import martlet") == []


def test_only_models_need_torch():
    names = ", ".join(name for name in NAMES if not name.startswith("AutoModel"))
    assert not {"torch", "transformers"} & set(loaded_by(f"from martlet import {names}"))
    assert not {"torch", "transformers"} & set(loaded_by("from martlet import AutoModelForCausalLM"))
    assert not {"torch", "transformers"} & set(
        loaded_by("import martlet.engine, martlet.checkpoint, martlet.inference")
    )


def test_nothing_of_the_package_is_left_out_of_what_is_installed():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["scikit-build"]
    # a bare name leaves out folders of that name at any depth, martlet.bench with bench
    assert all(pattern.startswith("/") for pattern in project["sdist"]["exclude"])
    assert project["wheel"]["exclude"] == ["martlet/native/**"]
