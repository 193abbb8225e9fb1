"""Arguments set by groups: the `set_...` methods of TrainingArguments, under Hugging Face's names for them."""

from __future__ import annotations

from typing import Any, TypeVar

Own = TypeVar("Own", bound="Grouped")


class Grouped:
    """Each method sets a group of arguments, those left out to their defaults, and returns the arguments themselves."""

    def but(self: Own, **changes: Any) -> Own:
        """A copy with some arguments changed, checked as a new one is."""
        raise NotImplementedError

    def _set(self: Own, **changes: Any) -> Own:
        vars(self).update(vars(self.but(**changes)))
        return self

    def set_training(
        self: Own, learning_rate: float = 5e-5, batch_size: int = 8, weight_decay: float = 0.0, num_epochs: float = 3,
        max_steps: int = -1, gradient_accumulation_steps: int = 1, seed: int = 42,
        activation_checkpointing: bool = False, gradient_checkpointing: bool | None = None,
    ) -> Own:  # fmt: skip
        """What a run does; `gradient_checkpointing` is `activation_checkpointing` by its old name."""
        recomputes = activation_checkpointing if gradient_checkpointing is None else gradient_checkpointing
        return self._set(
            do_train=True, learning_rate=learning_rate, per_device_train_batch_size=batch_size,
            weight_decay=weight_decay, num_train_epochs=num_epochs, max_steps=max_steps,
            gradient_accumulation_steps=gradient_accumulation_steps, seed=seed,
            activation_checkpointing=recomputes, gradient_checkpointing=recomputes,
        )  # fmt: skip

    def set_evaluate(
        self: Own, strategy: Any = "no", steps: float = 500, batch_size: int = 8, accumulation_steps: int | None = None,
        delay: float | None = None, loss_only: bool = False,
    ) -> Own:  # fmt: skip
        """When to evaluate, and how."""
        return self._set(
            eval_strategy=strategy, eval_steps=steps, per_device_eval_batch_size=batch_size,
            eval_accumulation_steps=accumulation_steps, eval_delay=delay or 0, prediction_loss_only=loss_only,
        )  # fmt: skip

    def set_testing(self: Own, batch_size: int = 8, loss_only: bool = False) -> Own:
        """How to predict."""
        return self._set(do_predict=True, per_device_eval_batch_size=batch_size, prediction_loss_only=loss_only)

    def set_save(
        self: Own, strategy: Any = "steps", steps: float = 500, total_limit: int | None = None,
        on_each_node: bool = False,
    ) -> Own:  # fmt: skip
        """When to save, and how many checkpoints to keep."""
        return self._set(
            save_strategy=strategy, save_steps=steps, save_total_limit=total_limit, save_on_each_node=on_each_node
        )

    def set_logging(
        self: Own, strategy: Any = "steps", steps: float = 500, report_to: Any = "none", first_step: bool = False
    ) -> Own:
        """When to log, and where to."""
        return self._set(
            logging_strategy=strategy, logging_steps=steps, report_to=report_to, logging_first_step=first_step
        )

    def set_optimizer(
        self: Own, name: Any = "adamw_torch", learning_rate: float = 5e-5, weight_decay: float = 0.0,
        beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, args: Any = None,
    ) -> Own:  # fmt: skip
        """The optimizer and its numbers."""
        return self._set(
            optim=name, learning_rate=learning_rate, weight_decay=weight_decay, adam_beta1=beta1, adam_beta2=beta2,
            adam_epsilon=epsilon, optim_args=args,
        )  # fmt: skip

    def set_lr_scheduler(
        self: Own, name: Any = "linear", num_epochs: float = 3.0, max_steps: int = -1, warmup_steps: float = 0
    ) -> Own:
        """The schedule of the learning rate, and the steps it is over."""
        return self._set(
            lr_scheduler_type=name, num_train_epochs=num_epochs, max_steps=max_steps, warmup_steps=warmup_steps
        )

    def set_dataloader(
        self: Own, train_batch_size: int = 8, eval_batch_size: int = 8, drop_last: bool = False, num_workers: int = 0,
        pin_memory: bool = True, persistent_workers: bool = False, prefetch_factor: int | None = None,
        sampler_seed: int | None = None,
    ) -> Own:  # fmt: skip
        """How batches are fetched."""
        return self._set(
            per_device_train_batch_size=train_batch_size, per_device_eval_batch_size=eval_batch_size,
            dataloader_drop_last=drop_last, dataloader_num_workers=num_workers, dataloader_pin_memory=pin_memory,
            dataloader_persistent_workers=persistent_workers, dataloader_prefetch_factor=prefetch_factor,
            data_seed=sampler_seed,
        )  # fmt: skip
