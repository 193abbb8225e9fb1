"""report.html: a run's plots, configuration and machine in one file that needs nothing beside it."""

from __future__ import annotations

import html
import platform
import time
from pathlib import Path
from typing import Any

import torch

from martlet.formats.files import write_aside
from martlet.training.callbacks import TrainerCallback

WIDTH, HEIGHT, LEFT, BOTTOM = 460, 220, 60, 24
SECONDS_BETWEEN = 5.0  # writes, but for the last
PLOTS = (
    ("loss", "Loss", "nats"),
    ("eval_loss", "Evaluation loss", "nats"),
    ("learning_rate", "Learning rate", ""),
    ("grad_norm", "Gradient norm", ""),
    ("tokens_per_second", "Throughput", "tokens/s"),
)
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}"
    "svg{background:#fafafa;margin:0 1em 1em 0}text{font-size:11px;fill:#555}"
    "table{border-collapse:collapse}td{padding:1px 12px 1px 0;vertical-align:top}"
    "polyline{fill:none;stroke:#1f5fa8;stroke-width:1.5}"
)


class HtmlReport(TrainerCallback):
    """Writes OUTPUT_DIR/report.html while the run goes on, whole each time."""

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.written = self.marked = 0.0
        self.tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.points = [dict(each) for each in state.log_history]
        self.marked, self.tokens, self.written = time.perf_counter(), state.num_input_tokens_seen, 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        point = {**logs, "step": state.global_step}
        now = time.perf_counter()
        if "loss" in logs:
            point["tokens_per_second"] = (state.num_input_tokens_seen - self.tokens) / max(now - self.marked, 1e-9)
            self.marked, self.tokens = now, state.num_input_tokens_seen
        self.points.append(point)
        if now - self.written >= SECONDS_BETWEEN:
            self.written = now
            self._write(args, state, more["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._write(args, state, more["model"])

    def _write(self, args: Any, state: Any, model: Any) -> None:
        text = render(self.points, state, args.to_dict(), describe(model))
        path = Path(args.output_dir)
        path.mkdir(parents=True, exist_ok=True)
        with write_aside(path / "report.html", "w") as file:
            file.write(text)


def describe(model: Any) -> dict[str, Any]:
    """The model and the machine."""
    weights = list(model.parameters())
    return {
        "model": f"{type(model).__name__} {getattr(model, 'name_or_path', '')}".strip(),
        "weights": f"{sum(each.numel() for each in weights):,} ({weights[0].dtype})",
        "that learn": f"{sum(each.numel() for each in weights if each.requires_grad):,}",
        "device": f"{weights[0].device}, {torch.get_num_threads()} threads",
        "memory, peak": f"{peak_bytes() / 1e9:.2f} GB",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def peak_bytes() -> int:
    """The most memory this process had resident."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def render(points: list[dict[str, Any]], state: Any, config: dict[str, Any], environment: dict[str, Any]) -> str:
    """The page."""
    plots = "".join(
        _plot(title, unit, [(each["step"], float(each[name])) for each in points if name in each])
        for name, title, unit in PLOTS
    )
    done = f"step {state.global_step} of {state.max_steps}, epoch {state.epoch or 0:.2f}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Training: {html.escape(done)}</title>'
        f"<style>{STYLE}</style><h1>Training</h1><p>{html.escape(done)}, {state.num_input_tokens_seen:,} tokens, "
        f"written {time.strftime('%Y-%m-%d %H:%M:%S')}.</p>{plots}"
        f"<h2>Environment</h2>{_table(environment)}<h2>Configuration</h2>{_table(config)}</html>\n"
    )


def _table(values: dict[str, Any]) -> str:
    rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in values.items())
    return f"<table>{rows}</table>"


def _plot(title: str, unit: str, points: list[tuple[int, float]]) -> str:
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    (x0, x1), (y0, y1) = (min(xs), max(xs)), (min(ys), max(ys))
    wide, high = max(x1 - x0, 1), (y1 - y0) or abs(y1) or 1.0

    def place(x: float, y: float) -> str:
        right = LEFT + (x - x0) / wide * (WIDTH - LEFT - 10)
        down = HEIGHT - BOTTOM - (y - y0) / high * (HEIGHT - BOTTOM - 30)
        return f"{right:.1f},{down:.1f}"

    line = " ".join(place(x, y) for x, y in points)
    marks = "".join(
        f'<text x="{LEFT - 6}" y="{place(x0, y).split(",")[1]}" text-anchor="end">{y:.4g}</text>' for y in {y0, y1}
    )
    named = f"{title} ({unit})" if unit else title
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{html.escape(named)}">'
        f'<text x="{LEFT}" y="16">{html.escape(named)}, last {ys[-1]:.4g}</text>{marks}'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{x0}</text>'
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">step {x1}</text>'
        f'<polyline points="{line}"/></svg>'
    )
