"""Evaluation and prediction: batches in order, predictions as arrays, the loss a mean over all supervised items."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from martlet.errors import ArgumentError, TrainingDataError, UnsupportedError
from martlet.training.feed import Batch, Fetcher, fetched, has_length
from martlet.training.losses import IGNORED
from martlet.training.outputs import EvalPrediction
from martlet.training.sources import as_batch


@dataclass
class EvalLoopOutput:
    """Arrays of one row a sample, metrics by their names, and how many samples there were."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]
    num_samples: int | None = None


def evaluation_loop(
    trainer: Any, loader: Any, prefix: str, ignore_keys: list[str] | None, loss_only: bool | None
) -> EvalLoopOutput:
    """Runs the model over `Batches`, or those of any loader. `loss_only` None: unless there is a compute_metrics."""
    args, world = trainer.args, trainer.world
    loss_only = trainer.compute_metrics is None if loss_only is None else loss_only
    began = time.perf_counter()
    numbered = loader.numbered() if hasattr(loader, "numbered") else foreign_batches(loader, world)
    in_batches = args.batch_eval_metrics and trainer.compute_metrics is not None and not loss_only
    if in_batches and world.size > 1:
        raise UnsupportedError("batch_eval_metrics", "is of one process", found=f"{world.size} processes")
    found: dict[str, Any] = {}
    kept: list[tuple[int, Any, Any, Any, Any]] = []  # number of the batch, logits, labels, inputs, loss of each row
    sums = [0.0, 0.0, 0.0]  # loss, supervised items, samples
    was_training = trainer.model.training
    trainer.model.eval()
    stack = contextlib.ExitStack()
    try:
        stack.enter_context(world.whole())
        for number, batch, is_last in _with_last(numbered):
            with trainer.computing():
                loss, items, logits, labels = _one(trainer, batch, loss_only, ignore_keys)
            if loss is not None:
                sums[0] += loss * items
                sums[1] += items
            sums[2] += len(batch.samples)
            if not loss_only or "inputs" in args.include_for_metrics or "loss" in args.include_for_metrics:
                inputs = batch.inputs.get("input_ids") if "inputs" in args.include_for_metrics else None
                losses = None if loss is None else np.full(len(batch.samples), loss, np.float32)
                part = (number, _array(logits), _array(labels), _array(inputs), losses)
                if in_batches:
                    found = _metrics(trainer, False, *part[1:], is_last=is_last)
                else:
                    kept.append(part)
            trainer.event("on_prediction_step")
    finally:
        stack.close()
        trainer.model.train(was_training)
    if not sums[2] and world.size == 1:
        raise TrainingDataError(f"{prefix} dataset", "must have rows", found="none")
    sums = world.total(sums)
    parts = sorted((each for rank in world.gather(kept) for each in rank), key=lambda each: each[0])
    join = _joined if args.eval_do_concat_batches else _listed
    logits, labels, inputs, losses = (join([each[place] for each in parts]) for place in range(1, 5))
    metrics = found if in_batches else _metrics(trainer, loss_only, logits, labels, inputs, losses)
    if sums[1]:
        mean = {"loss": sums[0] / sums[1]}
        metrics = {**mean, **metrics, **mean}
    seconds = time.perf_counter() - began
    metrics |= {
        "runtime": round(seconds, 4),
        "samples_per_second": round(sums[2] / seconds, 3),
        "steps_per_second": round(len(parts) / seconds if parts else sums[2] / args.eval_batch_size / seconds, 3),
    }
    named = {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": each for name, each in metrics.items()}
    return EvalLoopOutput(logits, labels, named, int(sums[2]))


def _with_last(batches: Iterable[tuple[int, Batch]]) -> Iterator[tuple[int, Batch, bool]]:
    """Each batch, and whether none follows."""
    ahead: tuple[int, Batch] | None = None
    for each in batches:
        if ahead is not None:
            yield (*ahead, False)
        ahead = each
    if ahead is not None:
        yield (*ahead, True)


def foreign_batches(loader: Any, world: Any) -> Iterator[tuple[int, Batch]]:
    """The batches of a loader of the user's own, numbered over all ranks as if each had every so-manieth."""
    taken = 0
    for number, inputs in enumerate(loader):
        batch = as_batch(inputs, taken, "dataloader")
        taken += len(batch.samples)
        yield number * world.size + world.rank, batch


def _metrics(
    trainer: Any, loss_only: bool, logits: Any, labels: Any, inputs: Any, losses: Any, is_last: bool | None = None
) -> dict[str, Any]:
    if trainer.compute_metrics is None or loss_only or logits is None or labels is None:
        return {}
    wanted = trainer.args.include_for_metrics
    prediction = EvalPrediction(
        logits, labels, inputs if "inputs" in wanted else None, losses if "loss" in wanted else None
    )
    if is_last is None:
        found = trainer.compute_metrics(prediction)
    else:  # of one batch: what it returns counts after the last
        found = trainer.compute_metrics(prediction, compute_result=is_last)
        found = found if is_last else {}
    if not hasattr(found, "items"):
        raise ArgumentError("compute_metrics", "must return a dict of numbers", found=type(found).__name__)
    return {name: each.item() if hasattr(each, "item") else each for name, each in found.items()}


def rank_batches(fetcher: Fetcher, args: Any, world: Any) -> Any:
    """This rank's batches, numbered over all ranks."""
    size = args.eval_batch_size
    if has_length(fetcher.dataset):
        count = len(fetcher.dataset)
        starts = list(enumerate(range(0, count, size)))[world.rank :: world.size]
        keys = [(0, tuple(range(start, min(start + size, count)))) for _, start in starts]
        yield from zip((n for n, _ in starts), fetched(fetcher, keys, args.dataloader_num_workers), strict=True)
        return
    rows: list[Any] = []
    number = 0
    for index, row in enumerate(fetcher.dataset):
        rows.append(fetcher.reader.read(row, index))
        if len(rows) == size:
            if number % world.size == world.rank:
                yield number, fetcher.batch(0, tuple(range(index - size + 1, index + 1)), rows)
            number, rows = number + 1, []
    if rows and number % world.size == world.rank:
        yield number, fetcher.batch(0, tuple(range(number * size, number * size + len(rows))), rows)


def _one(
    trainer: Any, batch: Batch, loss_only: bool, ignore_keys: list[str] | None
) -> tuple[float | None, int, Any, Any]:
    inputs, objective = to_device(batch.inputs, trainer.world.device), trainer.objective
    has_labels = not objective.needs_labels or all(name in inputs for name in objective.names)
    items = 0
    if has_labels:
        inputs = objective.prepare(inputs)
        items = objective.count(inputs)
    loss, logits, labels = trainer.prediction_step(trainer.model, inputs, loss_only, ignore_keys)
    if logits is not None and trainer.preprocess_logits_for_metrics is not None:
        logits = trainer.preprocess_logits_for_metrics(logits, labels)
    return None if loss is None or not items else float(loss), items, logits, labels


def to_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch's tensors on the model's device."""
    return {name: each.to(device) if isinstance(each, Tensor) else each for name, each in inputs.items()}


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()
    return tuple(_array(each) for each in value) if isinstance(value, list | tuple) else value


def _listed(parts: list[Any]) -> Any:
    """Batches as they came; of several outputs, a list of each."""
    if not parts or parts[0] is None:
        return None
    if isinstance(parts[0], tuple):
        return tuple(_listed([part[place] for part in parts]) for place in range(len(parts[0])))
    return parts


def _joined(parts: list[Any]) -> Any:
    """Batches as one array; widths that differ are padded with -100."""
    if not parts or parts[0] is None:
        return None
    if isinstance(parts[0], tuple):
        return tuple(_joined([part[place] for part in parts]) for place in range(len(parts[0])))
    arrays = [np.atleast_1d(part) for part in parts]
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    width = max(array.shape[1] for array in arrays)
    out = np.full((sum(map(len, arrays)), width, *arrays[0].shape[2:]), IGNORED, arrays[0].dtype)
    row = 0
    for array in arrays:
        out[row : row + len(array), : array.shape[1]] = array
        row += len(array)
    return out
