"""The training loop: steps of batches, one update each; events, logs, evaluations and checkpoints between them."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from martlet.errors import LossError, TrainingDataError, UnsupportedError
from martlet.nn.draws import drawing, uniform
from martlet.training.callbacks import find_metric
from martlet.training.checkpoints import checkpoint_name, lock_folder, sweep
from martlet.training.compiling import compiled
from martlet.training.evaluation import to_device
from martlet.training.feed import Batch, MapFeed, Step, seeded
from martlet.training.heap import Heap
from martlet.training.outputs import TrainOutput
from martlet.training.runs import Progress, check_identity, find_resume, identity_of, load_best, load_run, save_run
from martlet.training.world import touch

log = logging.getLogger(__name__)

RECENT = 100  # steps whose median loss an explosion is measured against
NEFTUNE_PLACE = 1 << 21


class BatchLoss(nn.Module):
    """The model with its loss, as one module: what DDP and FSDP wrap, so that their hooks see every call."""

    def __init__(self, trainer: Any) -> None:
        super().__init__()
        self.model = trainer.model
        object.__setattr__(self, "trainer", trainer)  # not a module of ours
        self.stand_in: dict[str, Any] | None = None  # another rank's row, for a step in which this one has none

    def forward(self, inputs: dict[str, Any], total: int) -> Tensor:
        if not inputs and self.stand_in is not None:  # shards are put together by all ranks, block by block
            return self.trainer.batch_loss(self.stand_in, total) * 0.0  # type: ignore[no-any-return, union-attr, operator]
        if not inputs:
            return touch(self.model)
        loss: Tensor = self.trainer.batch_loss(inputs, total)  # type: ignore[union-attr, operator]
        return loss


class Loop:
    """One call of `Trainer.train`."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.args, self.world = trainer, trainer.args, trainer.world
        self.progress = Progress()
        self.output = Path(self.args.output_dir)

    def run(self, asked: Any) -> Any:
        """Trains, from the checkpoint asked for on, and returns a TrainOutput."""
        trainer, world = self.trainer, self.world
        with contextlib.ExitStack() as stack:
            self._claim_folder(stack)
            self.feed = trainer.feed()
            self._plan_steps()
            folder = world.from_first(_attempt(find_resume, asked, self.output) if world.is_first else None)
            if isinstance(folder, Exception):
                raise folder
            trainer.is_trained = True
            self._set_checkpointing(stack)
            if self.args.torch_compile:
                how = (self.args.torch_compile_backend, self.args.torch_compile_mode, world.shards)
                stack.enter_context(compiled(trainer.model, *how))
            if self.args.full_determinism:
                stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
                torch.use_deterministic_algorithms(True)
            self.step_module = trainer.step_module = world.share(BatchLoss(trainer), trainer.model)
            trainer.create_optimizer_and_scheduler(self.max_steps)
            self.identity = identity_of(trainer, self.step_size)
            if folder is not None:
                check_identity(folder, self.identity)
                self.progress = load_run(trainer, folder)
            else:
                trainer.state = type(trainer.state)(
                    is_local_process_zero=world.local_rank == 0, is_world_process_zero=world.is_first
                )
            self._set_state()
            self._add_noise(stack)
            trainer.model.train()
            stack.enter_context(trainer.computing())
            self.heap = Heap(is_used=world.device.type == "cpu")
            return self._train()

    def _claim_folder(self, stack: contextlib.ExitStack) -> None:
        failed = None
        if self.world.is_first:
            lock = _attempt(lock_folder, self.output)
            failed = lock if isinstance(lock, Exception) else None
            if failed is None:
                stack.callback(lock.close)
                sweep(self.output)
        failed = self.world.from_first(failed)
        if failed is not None:
            raise failed

    def _plan_steps(self) -> None:
        args = self.args
        self.step_size = args.train_batch_size * args.gradient_accumulation_steps * self.world.size
        if isinstance(self.feed, MapFeed):
            self.steps_per_epoch = self.feed.order.steps_per_epoch
            wanted = math.ceil(args.num_train_epochs * self.steps_per_epoch)
            self.max_steps = args.max_steps if args.max_steps > 0 else wanted
            self.num_epochs = math.ceil(self.max_steps / self.steps_per_epoch)
            self.last_step = self.num_epochs * self.steps_per_epoch
            return
        if args.max_steps < 0:
            raise TrainingDataError(
                "train_dataset", "has no length, so the run must say max_steps", found="max_steps=-1"
            )
        self.max_steps, self.steps_per_epoch, self.num_epochs = args.max_steps, args.max_steps, 1

    def _set_state(self) -> None:
        state, args = self.trainer.state, self.args
        state.max_steps, state.num_train_epochs = self.max_steps, self.num_epochs
        state.train_batch_size = args.train_batch_size
        for name in ("logging_steps", "eval_steps", "save_steps"):
            setattr(state, name, args.steps_of(name, self.max_steps))

    def _set_checkpointing(self, stack: contextlib.ExitStack) -> None:
        if self.args.gradient_checkpointing:
            model = self.trainer.model
            if not hasattr(model, "gradient_checkpointing_enable"):
                raise UnsupportedError("gradient_checkpointing", f"{type(model).__name__} cannot do it")
            model.gradient_checkpointing_enable()
            stack.callback(model.gradient_checkpointing_disable)

    def _add_noise(self, stack: contextlib.ExitStack) -> None:
        """NEFTune (Jain et al. 2023): noise on token vectors, uniform within alpha / sqrt(tokens * width) of a row."""
        alpha = self.args.neftune_noise_alpha
        if not alpha:
            return

        def add(module: nn.Module, _: Any, vectors: Tensor) -> Tensor:
            if not module.training or self.draws is None or vectors.shape[0] != sum(self.draws.lengths):
                return vectors
            noise = uniform(self.draws, NEFTUNE_PLACE, tuple(vectors.shape[1:]), vectors.device) * 2 - 1
            lengths = torch.tensor(self.draws.lengths, device=vectors.device)
            reach = alpha / (lengths * vectors.shape[-1]).float().sqrt()
            out: Tensor = vectors + (noise * reach.repeat_interleave(lengths)[:, None]).to(vectors.dtype)
            return out

        self.draws: Any = None
        stack.callback(self.trainer.model.get_input_embeddings().register_forward_hook(add).remove)

    # the run

    def _train(self) -> TrainOutput:
        trainer, state = self.trainer, self.trainer.state
        self.began, self.first_step = time.perf_counter(), state.global_step
        trainer.control.should_training_stop = trainer.control.should_epoch_stop = False
        trainer.event("on_train_begin")
        if self.args.eval_on_start and state.global_step == 0:
            self._evaluate()
        if self.progress.ends_epoch:  # the run was killed between a save and the end of its epoch
            self._end_epoch()
        while not self._is_over() and not trainer.control.should_training_stop:
            trainer.control.should_epoch_stop = False
            trainer.event("on_epoch_begin")
            self._epoch()
            self._end_epoch()
        return self._finish()

    def _epoch(self) -> None:
        """Steps to the end of an epoch, or of the run."""
        trainer = self.trainer
        place = (self.progress.epoch, self.progress.taken)
        for step in self._steps(trainer.state.global_step, place):
            self._step(step)
            control = trainer.control
            if step.ends_epoch or control.should_epoch_stop or control.should_training_stop:
                break

    def _steps(self, first: int, place: tuple[int, int]) -> Iterator[Step]:
        skipped = self.progress.skipped
        steps: Iterator[Step] = self.feed.steps(first + skipped, self.max_steps + skipped, place)
        return steps

    def _is_over(self) -> bool:
        """Whether all steps are done, or all epochs: a callback may end one early."""
        step = self.trainer.state.global_step
        is_last = isinstance(self.feed, MapFeed) and step + self.progress.skipped >= self.last_step
        return step >= self.max_steps or is_last

    def _leave_epoch(self) -> None:
        """Goes to the start of the next epoch."""
        progress = self.progress
        progress.ends_epoch = True
        if isinstance(self.feed, MapFeed):
            progress.skipped += -(self.trainer.state.global_step + progress.skipped) % self.steps_per_epoch
        else:
            progress.epoch, progress.taken = progress.epoch + 1, 0

    def _step(self, step: Step) -> None:
        trainer, state = self.trainer, self.trainer.state
        trainer.control.begin_step()
        trainer.event("on_step_begin")
        batches = [
            Batch(
                each.samples,
                trainer.objective.prepare(to_device(each.inputs, self.world.device)) if each.inputs else {},
            )
            for each in step.batches
        ]
        items, tokens, idle = self.world.total(
            [
                sum(trainer.objective.count(each.inputs) for each in batches if each.inputs),
                sum(_num_tokens(each.inputs) for each in batches),
                sum(not each.inputs for each in batches),
            ]
        )
        if idle and self.world.shards:
            self.step_module.stand_in = self._row_of_any(batches)
        if not items:
            raise TrainingDataError(
                f"step {state.global_step + 1}", "must have a supervised token",
                found=f"samples {[each.samples for each in batches]} with none",
                remedy="Are all labels -100? Was the answer cut off?",
            )  # fmt: skip
        with self.heap.tidied_between_blocks(trainer.model):
            loss = self._backward(batches, int(items))
        self.heap.tidy()
        norm = self._clip(batches)
        trainer.event("on_pre_optimizer_step")
        trainer.optimizer.step()
        trainer.event("on_optimizer_step")
        rate = float(trainer.optimizer.param_groups[0]["lr"])
        if not isinstance(trainer.lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            trainer.lr_scheduler.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        state.global_step += 1
        state.epoch = step.epoch
        state.num_input_tokens_seen += int(tokens)
        state.total_flos += 6.0 * self._num_weights * tokens
        self._note(loss, step)
        trainer.event("on_step_end")
        if trainer.control.should_epoch_stop and not step.ends_epoch:
            self._leave_epoch()
        self._log_evaluate_save(norm, rate)

    def _row_of_any(self, batches: list[Batch]) -> dict[str, Any]:
        """One row of the first rank that has one; every rank must call this."""
        own = next((each for each in batches if each.inputs), None)
        row = None
        if own is not None:
            size = len(own.samples)
            row = {
                name: each[:1].cpu() if isinstance(each, Tensor) and len(each) == size else each
                for name, each in own.inputs.items()
            }
        found = next(each for each in self.world.gather(row) if each is not None)
        return to_device(found, self.world.device)

    def _backward(self, batches: list[Batch], items: int) -> float:
        """Gradients of the mean over `items`; returns that mean, of all ranks."""
        world = self.world
        total, own = 0.0, []
        for turn, batch in enumerate(batches):
            is_last = turn + 1 == len(batches)
            with self._drawing(batch, turn), world.holding(self.step_module, is_last):
                if not batch.inputs and world.size == 1:
                    loss: Any = 0.0
                else:  # of several ranks one without samples takes part in the reduction
                    loss = self.trainer.training_step(self.trainer.model, batch.inputs, items)
            own.append(float(loss))
            total += own[-1]
            if not is_last and any(each.samples for each in batches[turn + 1 :]):
                self.trainer.event("on_substep_end")
        (loss_of_all,) = world.total([total])
        self._check_loss(loss_of_all, own, batches)
        return float(loss_of_all)

    @contextlib.contextmanager
    def _drawing(self, batch: Batch, turn: int) -> Iterator[None]:
        """Inside, randomness is a function of (seed, step, sample); torch's own, of (seed, step, batch, rank)."""
        seed, step = self.args.seed, self.trainer.state.global_step
        mask, ids = batch.inputs.get("attention_mask"), batch.inputs.get("input_ids")
        lengths: tuple[int, ...] = ()
        own = batch.samples
        if isinstance(ids, Tensor) and ids.ndim == 3:  # the model reads each choice as a row
            own = tuple(sample * ids.shape[1] + choice for sample in own for choice in range(ids.shape[1]))
            ids, mask = ids.flatten(0, 1), None if mask is None else mask.flatten(0, 1)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            lengths = tuple(int(each) for each in mask.sum(1).tolist())
        elif isinstance(ids, Tensor):
            lengths = (ids.shape[1],) * ids.shape[0]
        samples = own if len(lengths) == len(own) else ()
        with (
            seeded(seed, step, turn, self.world.rank),
            drawing(seed, step, samples, lengths if samples else ()) as draws,
        ):
            self.draws = draws
            yield
        self.draws = None

    def _clip(self, batches: list[Batch]) -> float:
        """The norm of all gradients, which are scaled down to `max_grad_norm` (0: left as they are)."""
        grads = [each.grad for each in self.trainer.model.parameters() if each.grad is not None]
        norms = [torch.linalg.vector_norm(each, dtype=torch.float32) for each in grads]
        if self.world.shards:
            norms = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in norms]
        norm = float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
        if not math.isfinite(norm):
            raise LossError(
                f"step {self.trainer.state.global_step + 1}", "gradients must be finite", found=f"a norm of {norm}",
                remedy=f"The samples were {_shown(batches)}.",
            )  # fmt: skip
        limit = self.args.max_grad_norm
        if limit and norm > limit:
            torch._foreach_mul_(grads, limit / (norm + 1e-6))
        return norm

    # what may stop a run

    def _check_loss(self, loss: float, own: list[float], batches: list[Batch]) -> None:
        step = self.trainer.state.global_step + 1
        if not math.isfinite(loss):
            suspects = [batch for batch, each in zip(batches, own, strict=True) if not math.isfinite(each)]
            raise LossError(
                f"step {step}", "the loss must be finite", found=loss,
                remedy=f"Samples {self._culprits(suspects)} of rank {self.world.rank} gave it."
                if suspects else "Another rank gave it.",
            )  # fmt: skip
        recent, jump = self.progress.recent, self.args.max_loss_jump
        if jump and len(recent) >= 5:
            usual = statistics.median(recent)
            if usual > 0 and loss > usual * jump:
                raise LossError(
                    f"step {step}", f"the loss must stay below {jump:g} times the median of {len(recent)} steps before",
                    found=f"{loss:.4g} after {usual:.4g}",
                    remedy=f"The samples were {_shown(batches)}. max_loss_jump=0 lets it pass.",
                )  # fmt: skip

    def _culprits(self, batches: list[Batch]) -> str:
        """The samples that alone give a loss that is not finite; all of them if none does."""
        trainer, found = self.trainer, []
        for batch in batches:
            for row, sample in enumerate(batch.samples):
                size = len(batch.samples)
                alone = {
                    name: each[row : row + 1] if isinstance(each, Tensor) and len(each) == size else each
                    for name, each in batch.inputs.items()
                }
                with torch.no_grad(), contextlib.suppress(RuntimeError, ValueError):
                    if not math.isfinite(float(trainer.batch_loss(alone, max(1, trainer.objective.count(alone))))):
                        found.append(sample)
        return ", ".join(map(str, found)) or _shown(batches)

    # between steps

    def _note(self, loss: float, step: Step) -> None:
        progress = self.progress
        progress.loss_sum += loss
        progress.unlogged += loss
        progress.recent = [*progress.recent[1 - RECENT :], loss]
        progress.ends_epoch = step.ends_epoch
        if not isinstance(self.feed, MapFeed):
            progress.epoch, progress.taken = self.feed.place

    def _log_evaluate_save(self, norm: float | None, rate: float | None) -> None:
        trainer, state, progress = self.trainer, self.trainer.state, self.progress
        if trainer.control.should_log and state.global_step > progress.logged_step:
            logs = {"loss": progress.unlogged / (state.global_step - progress.logged_step)}
            if norm is not None:
                logs["grad_norm"] = norm
            logs["learning_rate"] = rate if rate is not None else float(trainer.optimizer.param_groups[0]["lr"])
            progress.unlogged, progress.logged_step = 0.0, state.global_step
            trainer.log(logs)
        if trainer.control.should_evaluate:
            self._evaluate()
        if trainer.control.should_save:
            folder = self.output / checkpoint_name(state.global_step)
            if state.best_global_step == state.global_step:
                state.best_model_checkpoint = str(folder)
            save_run(trainer, progress, self.identity)
        trainer.control.begin_step()

    def _evaluate(self) -> None:
        trainer, state, args = self.trainer, self.trainer.state, self.args
        metrics = trainer.evaluate(ignore_keys=trainer.ignored_keys)
        if isinstance(trainer.lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            trainer.lr_scheduler.step(find_metric(metrics, args.metric_for_best_model or "loss"))
        if args.metric_for_best_model is None:
            return
        value = find_metric(metrics, args.metric_for_best_model)
        sign = 1 if args.greater_is_better else -1
        if math.isnan(value):
            log.warning("%s is not a number at step %d: never the best", args.metric_for_best_model, state.global_step)
        elif state.best_metric is None or sign * value > sign * state.best_metric:
            state.best_metric, state.best_global_step = value, state.global_step
            if args.save_strategy == "best":
                trainer.control.should_save = True

    def _end_epoch(self) -> None:
        self.progress.ends_epoch = False
        self.trainer.event("on_epoch_end")
        self._log_evaluate_save(None, None)

    def _finish(self) -> TrainOutput:
        trainer, state, args = self.trainer, self.trainer.state, self.args
        seconds = time.perf_counter() - self.began
        steps = state.global_step - self.first_step
        mean = self.progress.loss_sum / max(1, state.global_step)
        metrics = {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(steps * self.step_size / seconds, 3),
            "train_steps_per_second": round(steps / seconds, 3),
            "total_flos": state.total_flos,
            "train_loss": mean,
        }
        trainer.log(dict(metrics))
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_best(trainer, Path(state.best_model_checkpoint))
        trainer.event("on_train_end")
        trainer.model.eval()
        return TrainOutput(state.global_step, mean, {**metrics, "epoch": state.epoch})

    @functools.cached_property
    def _num_weights(self) -> int:
        return sum(int(each.numel()) for each in self.trainer.model.parameters())


def _attempt(function: Any, *given: Any) -> Any:
    """What `function` returns or raises, so that every rank can learn of it."""
    try:
        return function(*given)
    except Exception as problem:
        return problem


def _num_tokens(inputs: dict[str, Any]) -> int:
    mask, ids = inputs.get("attention_mask"), inputs.get("input_ids")
    if isinstance(mask, Tensor):
        return int(mask.sum())
    return ids.numel() if isinstance(ids, Tensor) else 0


def _shown(batches: list[Batch]) -> str:
    return ", ".join(str(sample) for batch in batches for sample in batch.samples) or "none of this rank"
