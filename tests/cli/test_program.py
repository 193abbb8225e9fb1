"""The program around the commands: help, version, what it loads, how quickly it is there."""

import subprocess
import sys

import pytest

import martlet as library
from martlet.cli import COMMANDS, main

PROBE = """
import sys
from martlet.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0, end.code
heavy = [name for name in ("torch", "numpy", "tokenizers", "jinja2", "huggingface_hub") if name in sys.modules]
assert not heavy, heavy
"""


def test_version(martlet):
    assert martlet("--version").stdout == f"martlet {library.__version__}\n"


def test_help_lists_every_command(martlet):
    done = martlet("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, summary in COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert summary in done.stdout


def test_no_command_shows_the_help_as_an_error(martlet):
    done = martlet()
    assert (done.returncode, done.stdout) == (2, "")
    assert "COMMAND" in done.stderr


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(martlet, name):
    done = martlet(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: martlet {name} ")
    assert f"examples:\n  martlet {name} " in done.stdout
    assert all(len(line) <= 110 for line in done.stdout.splitlines())


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"], ["chat", "--help"], ["inspect", "--help"]])
def test_help_loads_nothing_heavy(words):
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROBE, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_fault_of_ours_is_one_line_too(monkeypatch, capsys):
    monkeypatch.setattr("martlet.cli.inspect.run", lambda arguments: 1 // 0)
    assert main(["inspect", "x"]) == 1
    assert capsys.readouterr().err == (
        "martlet: internal error: ZeroDivisionError: integer division or modulo by zero "
        "(MARTLET_TRACEBACK=1 shows where)\n"
    )


def test_torch_is_optional(tiny, tmp_path):
    """Without torch the error names it, and what to type."""
    blocked = tmp_path / "torch.py"
    blocked.write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    command = [sys.executable, "-c", "import sys; from martlet.cli import main; sys.exit(main(sys.argv[1:]))"]
    done = subprocess.run(
        [*command, "generate", str(tiny), "x", "--backend", "torch"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2
    assert done.stderr == "martlet: torch: is needed for a model. Install it: pip install 'martlet[torch]'.\n"
