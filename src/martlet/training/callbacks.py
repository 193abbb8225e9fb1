"""Callbacks: the events of a run under Hugging Face's names, the default flow, and early stopping."""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

from martlet.errors import ArgumentError
from martlet.training.arguments import TrainingArguments
from martlet.training.state import TrainerControl, TrainerState

EVENTS = (
    "on_init_end", "on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_step_begin", "on_step_end",
    "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_evaluate", "on_predict", "on_save", "on_log",
    "on_prediction_step", "on_push_begin",
)  # fmt: skip
FOURTH = {"on_evaluate": "metrics", "on_predict": "metrics", "on_log": "logs"}


class TrainerCallback:
    """Acts at the events of a run. Each gets `args`, `state`, `control`, and as keywords `model`, `processing_class`,
    `optimizer`, `lr_scheduler`, `train_dataloader`, `eval_dataloader`, and `logs` or `metrics` where there are some.

    An event may return a changed control. A callback with `state()` (a dict JSON can hold) and `load_state(state)`
    has that state in every checkpoint.
    """

    def on_init_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_substep_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_predict(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_prediction_step(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...
    def on_push_begin(self, args: Any, state: Any, control: Any, **more: Any) -> Any: ...


class Callbacks:
    """The callbacks of one trainer, called in order."""

    def __init__(self, callbacks: list[Any]) -> None:
        self.list: list[Any] = []
        for each in callbacks:
            self.add(each)

    @property
    def callbacks(self) -> list[Any]:
        """The callbacks, in the order they are called."""
        return self.list

    @property
    def callback_list(self) -> str:
        """Their class names, a line each."""
        return "\n".join(type(each).__name__ for each in self.list)

    def __getattr__(self, name: str) -> Any:
        if name not in EVENTS:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        return functools.partial(self._called, name, FOURTH.get(name))

    def _called(
        self, event: str, fourth: str | None, args: Any, state: Any, control: Any, *more: Any, **named: Any
    ) -> Any:
        """An event as Hugging Face's handler is called: some give what happened a fourth place."""
        if more:
            if fourth is None or len(more) > 1:
                raise ArgumentError(event, "takes args, state and control", found=f"{3 + len(more)} of them")
            named[fourth] = more[0]
        return self.call(event, args, state, control, **named)

    def add(self, callback: Any) -> None:
        """Adds a callback, or a class of them."""
        made = callback() if isinstance(callback, type) else callback
        if not any(hasattr(made, event) for event in EVENTS):
            raise ArgumentError("callbacks", "must be TrainerCallback objects", found=type(made).__name__)
        self.list.append(made)

    def find(self, callback: Any) -> Any:
        """The callback itself, or the first of a class."""
        for each in self.list:
            if each is callback or (isinstance(callback, type) and isinstance(each, callback)):
                return each
        return None

    def remove(self, callback: Any) -> Any:
        """Takes a callback, or the first of a class, out and returns it."""
        found = self.find(callback)
        if found is not None:
            self.list.remove(found)
        return found

    def call(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> TrainerControl:
        """Calls one event of all; returns the control to act on."""
        for each in self.list:
            if hasattr(each, event):
                control = getattr(each, event)(args, state, control, **more) or control
        return control

    def close(self) -> None:
        """Lets those go that hold something, like a terminal, for the time of a run."""
        for each in self.list:
            if callable(getattr(each, "close", None)):
                each.close()

    def states(self) -> dict[str, Any]:
        """State by class name of those that keep one; the number in order tells two of a class apart."""
        kept: dict[str, Any] = {}
        for each in self.list:
            if callable(getattr(each, "state", None)):
                kept.setdefault(type(each).__name__, []).append(each.state())
        return kept

    def load_states(self, states: dict[str, Any]) -> None:
        """Gives each callback its state back."""
        left = {name: list(found) for name, found in states.items() if isinstance(found, list)}
        for each in self.list:
            waiting = left.get(type(each).__name__)
            if not waiting:
                continue
            state = waiting.pop(0)
            if callable(getattr(each, "load_state", None)):
                each.load_state(state)
            elif isinstance(state, dict):  # Hugging Face's form: what to set
                for name, value in state.get("attributes", {}).items():
                    setattr(each, name, value)


class DefaultFlowCallback(TrainerCallback):
    """When to log, evaluate, save and stop, as the arguments say."""

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        step = state.global_step
        if (step == 1 and args.logging_first_step) or _is_due(args.logging_strategy, step, state.logging_steps):
            control.should_log = True
        if _is_due(args.eval_strategy, step, state.eval_steps) and step >= args.eval_delay:
            control.should_evaluate = True
        if _is_due(args.save_strategy, step, state.save_steps):
            control.should_save = True
        if step >= state.max_steps:
            control.should_training_stop = True
            if args.eval_strategy == "steps" and step >= args.eval_delay:
                control.should_evaluate = True
            if args.save_strategy == "steps":
                control.should_save = True
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if args.logging_strategy == "epoch":
            control.should_log = True
        if args.eval_strategy == "epoch" and state.epoch >= args.eval_delay:
            control.should_evaluate = True
        if args.save_strategy == "epoch":
            control.should_save = True
        return control


def _is_due(strategy: str, step: int, interval: int) -> bool:
    return strategy == "steps" and interval > 0 and step % interval == 0


class EarlyStoppingCallback(TrainerCallback):
    """Stops after `early_stopping_patience` evaluations whose metric was no more than the threshold better."""

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0) -> None:
        if early_stopping_patience < 1:
            raise ArgumentError("early_stopping_patience", "must be at least 1", found=early_stopping_patience)
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold or 0.0
        self.early_stopping_patience_counter = 0
        self.best: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if args.metric_for_best_model is None:
            raise ArgumentError("EarlyStoppingCallback", "needs metric_for_best_model", found="None")
        if args.eval_strategy == "no":
            raise ArgumentError("EarlyStoppingCallback", "needs an eval_strategy", found="'no'")
        if not args.load_best_model_at_end:
            text = "early stopping without load_best_model_at_end: the model stays as the last step left it"
            logging.getLogger(__name__).info(text)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **more: Any) -> Any:
        value = find_metric(metrics or {}, args.metric_for_best_model)
        sign = 1 if args.greater_is_better else -1
        gain = float("inf") if self.best is None else sign * (value - self.best)
        gain = -float("inf") if math.isnan(value) else gain
        if gain > 0:
            self.best = value
        if gain > self.early_stopping_threshold:
            self.early_stopping_patience_counter = 0
        else:
            self.early_stopping_patience_counter += 1
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True
        return control

    def state(self) -> dict[str, Any]:
        return {"counter": self.early_stopping_patience_counter, "best": self.best}

    def load_state(self, state: dict[str, Any]) -> None:
        self.early_stopping_patience_counter, self.best = state["counter"], state["best"]


class PrinterCallback(TrainerCallback):
    """Prints each entry of the log as a dict, on the first process of a machine."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if state.is_local_process_zero:
            shown = {name: f"{each:.4g}" if isinstance(each, float) else each for name, each in (logs or {}).items()}
            shown.pop("total_flos", None)
            print(shown)


def find_metric(metrics: dict[str, Any], name: str) -> float:
    """The metric `name`, with or without "eval_" before it. ArgumentError with those there are."""
    wanted = name if name.startswith("eval_") else f"eval_{name}"
    if wanted not in metrics:
        raise ArgumentError(
            "metric_for_best_model",
            "must be one of the metrics of an evaluation",
            found=repr(name),
            remedy=f"There are {', '.join(sorted(metrics))}.",
        )
    try:
        return float(metrics[wanted])
    except (TypeError, ValueError) as problem:
        raise ArgumentError(
            "metric_for_best_model", "must be a number", found=f"{name} {metrics[wanted]!r}"
        ) from problem
