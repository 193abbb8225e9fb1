"""Watching a run: one live line, and loggers through their own packages."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

from martlet.errors import MissingDependencyError
from martlet.formats.files import save_error
from martlet.training.callbacks import TrainerCallback
from martlet.training.peak import peak_flops, train_flops


def watchers(args: Any, world: Any) -> list[Any]:
    """The callbacks that show a run, on rank 0 alone."""
    if not world.is_first:
        return []
    from martlet.training.report import HtmlReport

    shown: list[Any] = [] if args.disable_tqdm else [_progress(args.progress)]
    if args.report_html:
        shown.append(HtmlReport())
    return shown + [LOGGERS[name]() for name in args.report_to]


def _progress(kind: str) -> Any:
    if kind == "line":
        return LiveLine()
    from martlet.training.rich_view import RichView

    return RichView()


class Pace:
    """Tokens/s over the last steps, the share of this machine's matrix-product peak that they are, and time left."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int, int]] = []  # seconds, step, tokens

    def mark(self, state: Any) -> None:
        self.marks = [*self.marks[-20:], (time.perf_counter(), state.global_step, state.num_input_tokens_seen)]

    def read(self, state: Any, model: Any) -> dict[str, float]:
        """`tokens_per_second`, `share_of_peak`, `seconds_left`; empty before two steps."""
        if len(self.marks) < 2:
            return {}
        (t0, s0, n0), (t1, s1, n1) = self.marks[0], self.marks[-1]
        seconds = max(t1 - t0, 1e-9)
        flops = train_flops(model) * (n1 - n0) / seconds
        left = (state.max_steps - s1) * seconds / max(1, s1 - s0)
        return {
            "tokens_per_second": (n1 - n0) / seconds,
            "share_of_peak": flops / peak_flops(next(model.parameters())),
            "seconds_left": left,
        }


class LiveLine(TrainerCallback):
    """One line on stderr, rewritten after each step; where stderr is no terminal, a line for each log."""

    def __init__(self) -> None:
        self.pace, self.width, self.loss = Pace(), 0, ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.pace = Pace()
        self.pace.mark(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.pace.mark(state)
        if sys.stderr.isatty():
            self._write(self._line(state, more["model"]), "")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if "loss" in logs:
            self.loss = f"  loss {logs['loss']:.4f}"
            if not sys.stderr.isatty():
                self._write(self._line(state, more["model"]), "\n")
        else:
            shown = "  ".join(f"{name} {each:.4g}" for name, each in logs.items() if isinstance(each, int | float))
            self._write(f"step {state.global_step}  {shown}", "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.width and sys.stderr.isatty():
            print(file=sys.stderr)

    def _line(self, state: Any, model: Any) -> str:
        line = f"step {state.global_step}/{state.max_steps}{self.loss}"
        if pace := self.pace.read(state, model):
            line += f"  {pace['tokens_per_second']:.0f} tokens/s  {pace['share_of_peak']:.0%} of peak"
            line += f"  {show_seconds(pace['seconds_left'])} left"
        return line

    def _write(self, line: str, end: str) -> None:
        start = "\r" if sys.stderr.isatty() else ""
        print(f"{start}{line:<{self.width}}", end=end, file=sys.stderr, flush=True)
        self.width = 0 if end else len(line)


ProgressCallback = LiveLine  # the name scripts take it out by


def show_seconds(seconds: float) -> str:
    """ "2 h 05 min", "3 min 20 s" or "14 s"."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def _package(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise MissingDependencyError("report_to", f"needs {package}", remedy=f"pip install {package}") from problem


def _numbers(logs: dict[str, Any]) -> dict[str, float]:
    """Logs under the loggers' names: evaluation's and the run's apart from the steps'."""
    out = {}
    for name, each in logs.items():
        if isinstance(each, int | float):
            kind, _, rest = name.partition("_")
            out[f"{kind}/{rest}" if kind in ("eval", "test") and rest else f"train/{name}"] = float(each)
    return out


class TensorBoardLogger(TrainerCallback):
    """Scalars into OUTPUT_DIR/runs, or TENSORBOARD_LOGGING_DIR."""

    def __init__(self) -> None:
        _package("tensorboard", "tensorboard")
        self.writer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        import os

        from torch.utils.tensorboard import SummaryWriter

        folder = os.environ.get("TENSORBOARD_LOGGING_DIR") or os.path.join(args.output_dir, "runs")
        self.writer = SummaryWriter(folder)
        self.writer.add_text("args", args.to_json_string())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if self.writer is not None:
            try:
                for name, each in _numbers(logs).items():
                    self.writer.add_scalar(name, each, state.global_step)
                self.writer.flush()
            except OSError as problem:
                folder, self.writer = self.writer.log_dir, None
                raise save_error(folder, problem) from problem

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class WandbLogger(TrainerCallback):
    """A Weights & Biases run; `wandb`'s own environment variables say which project and where."""

    def __init__(self) -> None:
        self.wandb = _package("wandb", "wandb")
        self.run: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.run = self.wandb.run or self.wandb.init(name=args.run_name, config=args.to_dict())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if self.run is not None:
            self.run.log({**_numbers(logs), "train/global_step": state.global_step})


class MlflowLogger(TrainerCallback):
    """An MLflow run; `mlflow`'s own environment variables say which server and experiment."""

    def __init__(self) -> None:
        self.mlflow = _package("mlflow", "mlflow")
        self.owns_run = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.mlflow.active_run() is None:
            self.mlflow.start_run(run_name=args.run_name)
            self.owns_run = True
        self.mlflow.log_params({name: str(each)[:250] for name, each in args.to_dict().items()})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if self.mlflow.active_run() is not None:
            self.mlflow.log_metrics(_numbers(logs), step=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.owns_run:
            self.mlflow.end_run()
            self.owns_run = False


LOGGERS: dict[str, Any] = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger, "mlflow": MlflowLogger}
