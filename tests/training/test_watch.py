"""What a run shows and where it logs: the rich view, and the loggers' own packages, real and stood in for."""

import io
import os
import subprocess
import sys
import types

import pytest
from tiny import make_rows, tiny_model

from martlet.errors import MissingDependencyError
from martlet.training import Trainer, TrainingArguments
from martlet.training.watch import LOGGERS


def run(folder, **changes):
    own = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_html": False,
        "disable_tqdm": True,
    }
    args = TrainingArguments(folder, eval_strategy="epoch", **{**own, **changes})
    trainer = Trainer(tiny_model(), args, train_dataset=make_rows(8), eval_dataset=make_rows(3))
    trainer.train()
    return trainer


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_rich_view(tmp_path, monkeypatch, is_terminal):
    pytest.importorskip("rich")
    from rich.console import Console

    from martlet.training import rich_view

    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=120)
    monkeypatch.setattr(rich_view, "Console", lambda stderr: console)
    run(tmp_path, disable_tqdm=False, progress="rich")
    shown = out.getvalue()
    assert all(word in shown for word in ("step 4 of 4", "tokens/s", "of peak", "eval_loss", "grad_norm", "train_loss"))
    assert shown.endswith("\x1b[?25h") == is_terminal  # the cursor is back


def test_the_terminal_is_given_back_when_a_run_breaks(tmp_path, monkeypatch):
    pytest.importorskip("rich")
    from rich.console import Console

    from martlet.training import rich_view

    out = io.StringIO()
    monkeypatch.setattr(rich_view, "Console", lambda stderr: Console(file=out, force_terminal=True, width=80))
    args = TrainingArguments(tmp_path, progress="rich", report_html=False, save_strategy="no")
    rows = [*make_rows(3), {"input_ids": []}]
    with pytest.raises(Exception, match="must have a token"):
        Trainer(tiny_model(), args, train_dataset=rows).train()
    assert out.getvalue().endswith("\x1b[?25h")


class Calls:
    """A module that notes what is called on it."""

    def __init__(self):
        self.made, self.run, self.active = [], None, None

    def noting(self, name, result=None):
        def call(*given, **named):
            self.made.append((name, given, named))
            return result

        return call


def test_what_wandb_is_told(tmp_path, monkeypatch):
    calls = Calls()
    started = types.SimpleNamespace(log=calls.noting("log"))
    module = types.ModuleType("wandb")
    module.run, module.init = None, calls.noting("init", started)
    monkeypatch.setitem(sys.modules, "wandb", module)
    run(tmp_path, report_to="wandb", run_name="first")
    (name, _, given), *logs = calls.made
    assert name == "init" and given["name"] == "first" and given["config"]["max_steps"] == 4
    told = [given[0] for name, given, _ in logs]
    assert told[0]["train/global_step"] == 2 and {"train/loss", "train/grad_norm"} <= told[0].keys()
    assert any("eval/loss" in each for each in told) and all(isinstance(v, int | float) for v in told[0].values())


def test_what_mlflow_is_told(tmp_path, monkeypatch):
    calls = Calls()
    module = types.ModuleType("mlflow")
    module.active_run = lambda: calls.active

    def start_run(**named):
        calls.active = named
        calls.made.append(("start_run", (), named))

    module.start_run = start_run
    for name in ("log_params", "log_metrics", "end_run"):
        setattr(module, name, calls.noting(name))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    run(tmp_path, report_to="mlflow", run_name="first")
    names = [name for name, _, _ in calls.made]
    assert names[:2] == ["start_run", "log_params"] and names[-1] == "end_run"
    params = calls.made[1][1][0]
    assert all(isinstance(each, str) and len(each) <= 250 for each in params.values())
    metrics = [(given[0], named["step"]) for name, given, named in calls.made if name == "log_metrics"]
    assert metrics[0][1] == 2 and "train/loss" in metrics[0][0]


@pytest.mark.parametrize("name", sorted(LOGGERS))
def test_a_logger_that_is_not_there(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {name}"):
        run(tmp_path, report_to=name)


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from test_watch import run
run({folder!r}, report_to={name!r}, run_name="first")
"""


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_real_packages(tmp_path, name):
    pytest.importorskip(name, reason=f"{name} is not installed")
    here = os.path.dirname(__file__)
    own = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    own |= {"MLFLOW_TRACKING_URI": f"file://{tmp_path}/mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}
    script = SCRIPT.format(here=here, folder=str(tmp_path / "out"), name=name)
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **own}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if name == "wandb":
        (folder,) = [each for each in (tmp_path / "wandb").iterdir() if each.name.startswith("offline-run")]
        assert any(each.suffix == ".wandb" and each.stat().st_size > 1000 for each in folder.iterdir())
    else:
        found = {each.name for each in (tmp_path / "mlruns").rglob("*") if each.parent.name == "train"}
        assert {"loss", "grad_norm", "learning_rate"} <= found
        losses = next(each for each in (tmp_path / "mlruns").rglob("loss") if each.parent.name == "train")
        assert [line.split()[2] for line in losses.read_text().splitlines()] == ["2", "4"]
