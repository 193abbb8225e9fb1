"""The C++ tests of the engine, built plainly and run; `make sanitize` runs the same under the sanitizers."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")), reason="there is no compiler")
def test_the_cpp_tests_pass(tmp_path):
    options = ["-DMARTLET_PYTHON=OFF", "-DMARTLET_DEVELOP=ON"]
    subprocess.run(["cmake", "-S", ROOT, "-B", tmp_path, *options], check=True, capture_output=True)
    build = ["cmake", "--build", tmp_path, "--parallel", "2", "--target", "native_tests"]
    subprocess.run(build, check=True, capture_output=True)
    ran = subprocess.run([tmp_path / "native_tests"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
