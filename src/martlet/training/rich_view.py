"""The `rich` view of a run: a bar, what the live line says, and a table of the last logs, redrawn in place."""

from __future__ import annotations

from typing import Any

from martlet.errors import MissingDependencyError
from martlet.training.callbacks import TrainerCallback
from martlet.training.watch import Pace, show_seconds

try:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text
except ImportError as problem:
    raise MissingDependencyError("progress='rich'", "needs rich", remedy="pip install rich") from problem

SHOWN_LOGS = 8
COLUMNS = ("loss", "eval_loss", "learning_rate", "grad_norm")


class RichView(TrainerCallback):
    """Redrawn on stderr after each step; where stderr is no terminal, printed once at the end."""

    def __init__(self, console: Any = None) -> None:
        self.console = console if console is not None else Console(stderr=True)
        self.logs: list[dict[str, Any]] = []
        self.live: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.pace, self.logs = Pace(), []
        self.pace.mark(state)
        if self.console.is_terminal:
            self.live = Live(self.render(state, more["model"]), console=self.console, refresh_per_second=8)
            self.live.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.pace.mark(state)
        self._draw(state, more["model"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        self.logs.append({"step": state.global_step, **logs})
        self._draw(state, more["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._draw(state, more["model"])
        if self.live is None:
            self.console.print(self.render(state, more["model"]))
        self.close()

    def close(self) -> None:
        """Gives the terminal back; a run that ends by an error calls it too."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _draw(self, state: Any, model: Any) -> None:
        if self.live is not None:
            self.live.update(self.render(state, model))

    def render(self, state: Any, model: Any) -> Any:
        """What is shown now."""
        words = [f"step {state.global_step} of {state.max_steps}", f"epoch {state.epoch or 0:.2f}"]
        if pace := self.pace.read(state, model):
            words.append(f"{pace['tokens_per_second']:.0f} tokens/s")
            words.append(f"{pace['share_of_peak']:.0%} of peak")
            words.append(f"{show_seconds(pace['seconds_left'])} left")
        table = Table(box=None, pad_edge=False)
        for name in ("step", *COLUMNS, "others"):
            table.add_column(name, justify="left" if name == "others" else "right")
        for log in self.logs[-SHOWN_LOGS:]:
            numbers = {name: each for name, each in log.items() if isinstance(each, int | float)}
            others = [f"{name} {each:.4g}" for name, each in numbers.items() if name not in (*COLUMNS, "step", "epoch")]
            cells = ["" if name not in numbers else f"{numbers[name]:.4g}" for name in COLUMNS]
            table.add_row(str(log["step"]), *cells, "  ".join(others))
        bar = ProgressBar(total=max(1, state.max_steps), completed=state.global_step, width=40)
        return Group(bar, Text("  ".join(words)), table)
