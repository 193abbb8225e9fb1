"""Parts of a trainer that scripts bring themselves: loaders, samplers, steps, loops; and what they ask beside."""

import pytest
import safetensors.torch
import torch
from tiny import assert_equal, make_rows, tiny_model, weights_of
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from martlet.errors import TrainingDataError, UnsupportedError
from martlet.training import Trainer, TrainerCallback, TrainingArguments


def arguments(folder, **changes):
    given = dict(per_device_train_batch_size=4, num_train_epochs=2, learning_rate=1e-2, save_strategy="no",
                 report_html=False, disable_tqdm=True, logging_steps=1)  # fmt: skip
    return TrainingArguments(folder, **{**given, **changes})


def make(folder, kind=Trainer, rows=None, model=None, **changes):
    return kind(model or tiny_model(), arguments(folder, **changes), train_dataset=rows or make_rows(10))


class OwnLoader(Trainer):
    def get_train_dataloader(self):
        return DataLoader(
            self.train_dataset, self.args.train_batch_size, sampler=RandomSampler(self.train_dataset),
            collate_fn=self.data_collator,
        )  # fmt: skip


def test_a_loader_of_ones_own(tmp_path):
    """The loader's batches are the run's, three in an epoch of ten rows; an epoch's order is not the next one's."""
    seen = []

    class Look(OwnLoader):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            seen.append(inputs["input_ids"][:, 0].tolist())
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    trainer = make(tmp_path, Look)
    trainer.train()
    assert [len(each) for each in seen] == [4, 4, 2] * 2
    first, second = [each for part in seen[:3] for each in part], [each for part in seen[3:] for each in part]
    assert sorted(first) == sorted(second) == sorted(row["input_ids"][0] for row in make_rows(10))
    assert first != second
    assert trainer.state.epoch == 2.0


def test_a_loader_in_order_is_the_sequential_run(tmp_path):
    class InOrder(Trainer):
        def get_train_dataloader(self):
            return DataLoader(self.train_dataset, 2, collate_fn=self.data_collator)

    changes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    ours = make(tmp_path / "a", train_sampling_strategy="sequential", **changes)
    ours.train()
    theirs = make(tmp_path / "b", InOrder, **changes)
    theirs.train()
    assert_equal(weights_of(ours.model), weights_of(theirs.model))


def test_a_run_on_ones_own_loader_goes_on_exactly(tmp_path):
    whole = make(tmp_path / "whole", OwnLoader)
    whole.train()
    part = make(tmp_path / "part", OwnLoader, save_strategy="steps", save_steps=4)
    part.add_callback(_StopAt(4))
    part.train()
    rest = make(tmp_path / "part", OwnLoader, save_strategy="steps", save_steps=4)
    rest.train(resume_from_checkpoint=True)
    assert rest.state.global_step == 6
    assert_equal(weights_of(whole.model), weights_of(rest.model))


class _StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **more):
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize(
    "batches, says",
    [([], "must return batches"), ([1, 2], "must give dicts"), (iter([]), "with a length")],
)
def test_loaders_that_cannot_be(tmp_path, batches, says):
    class Bad(Trainer):
        def get_train_dataloader(self):
            return batches

    with pytest.raises((TrainingDataError, UnsupportedError), match=says):
        make(tmp_path, Bad).train()


def test_a_sampler_of_ones_own(tmp_path):
    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return SequentialSampler(train_dataset)

    class Drawn(Trainer):
        def _get_train_sampler(self):
            return RandomSampler(self.train_dataset, replacement=True, num_samples=6)

    ours = make(tmp_path / "a", train_sampling_strategy="sequential")
    theirs = make(tmp_path / "b", InOrder)
    assert ours.train().global_step == theirs.train().global_step == 6
    assert_equal(weights_of(ours.model), weights_of(theirs.model))
    assert make(tmp_path / "c", Drawn).train().global_step == 4


def test_a_step_of_ones_own(tmp_path):
    """Through the trainer's own, or with a backward pass by accelerate's name: the same weights."""
    losses = []

    class Calls(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            losses.append(float(super().training_step(model, inputs, num_items_in_batch)))
            return torch.tensor(losses[-1])

    class Alone(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            model.train()
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            self.accelerator.backward(loss)
            return loss.detach()

    changes = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 3}
    plain, calls, alone = (make(tmp_path / kind.__name__, kind, **changes) for kind in (Trainer, Calls, Alone))
    for each in (plain, calls, alone):
        each.train()
    assert len(losses) == 5  # the last step of ten rows has one batch
    assert_equal(weights_of(plain.model), weights_of(calls.model))
    assert_equal(weights_of(plain.model), weights_of(alone.model))
    logged = [[entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (plain, calls, alone)]
    assert logged[0] == logged[1] == logged[2]


def test_an_evaluation_of_ones_own(tmp_path):
    """As question answering's scripts do: the loop is called with a loader, and metrics are made after it."""

    class Own(Trainer):
        def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
            loader = self.get_eval_dataloader(eval_dataset)
            compute, self.compute_metrics = self.compute_metrics, None
            output = self.evaluation_loop(
                loader, description="Evaluation", prediction_loss_only=None if compute else True,
                ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix,
            )  # fmt: skip
            self.compute_metrics = compute
            metrics = {**output.metrics, "eval_rows": output.num_samples}
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        def get_eval_dataloader(self, eval_dataset=None):
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            return DataLoader(rows, 3, collate_fn=self.data_collator)

    rows = make_rows(7)
    own = Own(tiny_model(), arguments(tmp_path), eval_dataset=rows)
    plain = Trainer(tiny_model(), arguments(tmp_path), eval_dataset=rows)
    found = own.evaluate()
    assert found["eval_rows"] == 7
    assert found["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-6)
    assert own.state.log_history[-1]["eval_rows"] == 7


def test_metrics_batch_by_batch(tmp_path):
    """Hugging Face's batch_eval_metrics: the last call of an evaluation gives the metrics."""
    held = []

    def compute(prediction, compute_result):
        held.append(prediction.predictions.shape[0])
        return {"rows": sum(held)} if compute_result else {}

    trainer = Trainer(
        tiny_model(), arguments(tmp_path, batch_eval_metrics=True, per_device_eval_batch_size=3),
        eval_dataset=make_rows(7), compute_metrics=compute,
    )  # fmt: skip
    assert trainer.evaluate()["eval_rows"] == 7
    assert held == [3, 3, 1]


def test_what_scripts_ask_beside_training(tmp_path, capsys):
    trainer = make(tmp_path, max_steps=1)
    with trainer.args.main_process_first(desc="tokenizing"):
        pass
    assert trainer.args.parallel_mode.value == "not_parallel"
    assert (trainer.args.push_to_hub, trainer.args.fp16, trainer.args.local_rank) == (False, False, -1)
    assert isinstance(trainer.args.get_process_log_level(), int)
    with pytest.raises(AttributeError, match="no attribute 'lerning_rate'"):
        _ = trainer.args.lerning_rate
    trainer.train()
    assert trainer.num_examples(trainer.get_train_dataloader()) == 10
    assert trainer.get_total_train_batch_size() == 4
    assert trainer.accelerator.is_main_process and trainer.accelerator.num_processes == 1
    assert trainer.accelerator.unwrap_model(trainer.model_wrapped) is trainer.model
    with pytest.raises(UnsupportedError, match=r"accelerator\.save_state"):
        trainer.accelerator.save_state()
    trainer.create_model_card(model_name="small", tags="test", dataset="rows", language="en")
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlanguage: en\n") and "| learning_rate | 0.01 |" in card and "on rows, 1 steps" in card
    for name in ("push_to_hub", "hyperparameter_search", "init_hf_repo"):
        with pytest.raises(UnsupportedError, match=name):
            getattr(trainer, name)()


def test_every_argument_of_hugging_faces_is_ours_or_refused_by_name():
    """None is ignored; what both have begins alike, and Trainer's public methods are there."""
    import dataclasses

    transformers = pytest.importorskip("transformers")
    from martlet.training.arguments import REFUSED

    ours = {each.name: each.default for each in dataclasses.fields(TrainingArguments)}
    for each in dataclasses.fields(transformers.TrainingArguments):
        assert (each.name in ours) != (each.name in REFUSED), each.name
        if each.name in ours and each.default is not dataclasses.MISSING and not callable(each.default):
            mine, theirs = (getattr(value, "value", value) for value in (ours[each.name], each.default))
            assert mine == theirs or each.name in DIFFERENT, each.name
    without = {name for name in dir(transformers.Trainer) if name[0] != "_" and not hasattr(Trainer, name)}
    assert without == NOT_THERE


DIFFERENT = {"report_to", "output_dir"}
# how Hugging Face's loop is made inside
NOT_THERE = {"create_accelerator_and_postprocess", "end", "floating_point_ops", "get_batch_samples", "get_cp_size",
             "get_optimizer_cls_and_kwargs", "get_sp_size", "get_tp_size", "loss_is_scaled_for_ga",
             "set_initial_training_values", "store_flos"}  # fmt: skip


def test_a_module_of_ones_own_is_saved_where_scripts_look(tmp_path):
    module = torch.nn.Linear(2, 1)
    Trainer(module, TrainingArguments(tmp_path), train_dataset=[]).save_model()
    found = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], each) for name, each in module.state_dict().items())


def test_the_epoch_of_a_stream_grows_within_a_pass(tmp_path):
    """As Hugging Face counts: a share of max_steps, since a pass's length is not known; whole at its end."""

    class Stream:
        def __iter__(self):
            return iter(make_rows(10))

    args = TrainingArguments(
        tmp_path, max_steps=8, per_device_train_batch_size=2, logging_steps=1, report_html=False, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(tiny_model(), args, train_dataset=Stream())
    trainer.train()
    epochs = [each["epoch"] for each in trainer.state.log_history if "loss" in each]
    assert epochs == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8, 1, 9 / 8, 10 / 8, 11 / 8])


def test_the_names_of_callbacks(tmp_path):
    trainer = Trainer(tiny_model(), TrainingArguments(tmp_path, disable_tqdm=True, report_html=False))
    assert trainer.callback_handler.callback_list == "DefaultFlowCallback"
