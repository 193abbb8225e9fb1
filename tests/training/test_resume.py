"""kill -9 at any moment, resume: loss curve and last weights are those of a run never interrupted, to the bit."""

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import assert_equal, make_rows, tiny_model, weights_of

from martlet.errors import CheckpointError, RunFolderError
from martlet.training import Trainer, TrainerCallback, TrainingArguments
from martlet.training.checkpoints import check_checkpoint, list_checkpoints, lock_folder, newest_good

SCRIPT = Path(__file__).with_name("run_script.py")


def start(output, *arguments, **named):
    words = [f"{name}={json.dumps(value)}" for name, value in named.items()]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent)}
    return subprocess.Popen([sys.executable, str(SCRIPT), str(output), *words], env=env, stderr=subprocess.PIPE)


def finish(process):
    _, error = process.communicate()
    return process.returncode, error.decode()


def run(output, **named):
    code, error = finish(start(output, **named))
    assert code == 0, error[-3000:]
    return torch.load(output / "end.pt"), json.loads((output / "end.json").read_text())


def assert_same_end(ours, theirs):
    assert_equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]


class Dies(TrainerCallback):
    """Ends a run inside the process, as an error would, after some steps."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **more):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def train_in_parts(folder, stops, make_model=tiny_model, dataset=None, **arguments):
    given = dict(
        per_device_train_batch_size=2, num_train_epochs=2, learning_rate=5e-3, logging_steps=3, save_steps=2,
        report_html=False, disable_tqdm=True,
    ) | arguments  # fmt: skip
    for stop in [*stops, None]:
        trainer = Trainer(
            make_model(), TrainingArguments(folder, **given), train_dataset=dataset or make_rows(23),
            eval_dataset=make_rows(5, seed=3), callbacks=[Dies(stop)] if stop else None,
        )  # fmt: skip
        try:
            trainer.train(resume_from_checkpoint="auto")
        except KeyboardInterrupt:
            continue
    kept = [
        {k: v for k, v in each.items() if "runtime" not in k and "per_second" not in k}
        for each in trainer.state.log_history
    ]
    return weights_of(trainer.model), kept


QUICK = [
    {"gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine", "warmup_steps": 2, "seed": 7},
    {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "num_train_epochs": 3},
]
LONGER = [
    {},
    {"optim": "adafactor", "neftune_noise_alpha": 5.0},
    {"eval_strategy": "steps", "eval_steps": 2, "lr_scheduler_type": "reduce_lr_on_plateau"},
    {"train_sampling_strategy": "group_by_length", "dataloader_drop_last": True},
    {"save_steps": 12, "eval_strategy": "epoch"},
]
RUNS = [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in LONGER)]


@pytest.mark.parametrize("arguments", RUNS, ids=lambda each: "-".join(each) or "plain")
def test_a_run_in_parts_is_the_run_in_one(tmp_path, arguments):
    whole = train_in_parts(tmp_path / "whole", [], **arguments)
    parts = train_in_parts(tmp_path / "parts", [3, 8, 13, 14], **arguments)
    assert_equal(whole[0], parts[0])
    assert whole[1] == parts[1]


@pytest.mark.parametrize("update", ["stochastic", pytest.param("master", marks=pytest.mark.slow)])
def test_bfloat16_weights_resume_exactly(tmp_path, update):
    def model():
        return tiny_model(dtype=torch.bfloat16)

    whole = train_in_parts(tmp_path / "whole", [], model, bf16_update=update)
    parts = train_in_parts(tmp_path / "parts", [5, 11], model, bf16_update=update)
    assert_equal(whole[0], parts[0])
    assert whole[1] == parts[1]


@pytest.mark.slow
@pytest.mark.parametrize("extra", [{"dropout": True}, {"stream": True, "max_steps": 30}], ids=["dropout", "stream"])
def test_killed_at_random_moments(tmp_path, extra):
    """Real processes, killed after random times: in steps, while a checkpoint is written, at the start."""
    whole = run(tmp_path / "whole", **extra, num_train_epochs=3)
    chance = random.Random(len(extra))
    output, kills = tmp_path / "killed", 0
    while kills < 5:
        before = len(list_checkpoints(output))
        process = start(output, **extra, num_train_epochs=3, resume_from_checkpoint="auto")
        # from the moment it trains, or else it would only ever be killed while it imports
        while process.poll() is None and not (output / ".martlet.lock").exists():
            time.sleep(0.01)
        while process.poll() is None and kills % 3 and len(list_checkpoints(output)) == before:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.2)
        process.kill()
        if finish(process)[0] == 0:
            break
        kills += 1
    assert kills
    assert_same_end(run(output, **extra, num_train_epochs=3, resume_from_checkpoint="auto"), whole)


@pytest.mark.parametrize("die_at", ["save 4", "step 5"])
def test_killed_by_the_system(tmp_path, die_at):
    whole = run(tmp_path / "whole", max_steps=8)
    code, _ = finish(start(tmp_path / "killed", max_steps=8, die_at=die_at))
    assert code == -9
    assert_same_end(run(tmp_path / "killed", max_steps=8, resume_from_checkpoint=True), whole)


def test_the_newest_checkpoint_is_torn(tmp_path):
    whole = train_in_parts(tmp_path / "whole", [], num_train_epochs=1)
    torn = tmp_path / "torn"
    with pytest.raises(KeyboardInterrupt):
        trainer = Trainer(
            tiny_model(),
            TrainingArguments(
                torn, per_device_train_batch_size=2, num_train_epochs=1, learning_rate=5e-3, logging_steps=3,
                save_steps=2, report_html=False, disable_tqdm=True,
            ),
            train_dataset=make_rows(23), callbacks=[Dies(9)],
        )  # fmt: skip
        trainer.train()
    assert [each.name for each in list_checkpoints(torn)] == [f"checkpoint-{step}" for step in (2, 4, 6, 8)]
    newest = torn / "checkpoint-8" / "optimizer.safetensors"
    data = bytearray(newest.read_bytes())
    data[-3] ^= 1
    newest.write_bytes(data)
    (torn / "checkpoint-6" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors is not what was written"):
        check_checkpoint(torn / "checkpoint-8")
    parts = train_in_parts(torn, [], num_train_epochs=1)
    assert_equal(whole[0], parts[0])
    assert whole[1] == parts[1]


def test_a_checkpoint_that_was_not_finished_is_cleared(tmp_path):
    train_in_parts(tmp_path, [], max_steps=4)
    left = tmp_path / ".checkpoint-9.0123456789abcdef.tmp"
    left.mkdir()
    shutil.move(tmp_path / "checkpoint-4", tmp_path / ".checkpoint-4.0123456789abcdef.old")
    train_in_parts(tmp_path, [], max_steps=4)
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_dir()) == ["checkpoint-2", "checkpoint-4"]


def test_nothing_to_resume_from(tmp_path):
    trainer = Trainer(tiny_model(), TrainingArguments(tmp_path, max_steps=1), train_dataset=make_rows())
    with pytest.raises(CheckpointError, match="must have a whole checkpoint"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"make_model": lambda: tiny_model(hidden_size=16)}, "same architecture"),
        ({"dataset": make_rows(22)}, "number of rows differs"),
        ({"per_device_train_batch_size": 3}, "as many samples a step"),
        ({"seed": 1}, "this seed"),
        ({"optim": "sgd"}, "this optimizer"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, says):
    train_in_parts(tmp_path, [], max_steps=2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint-2").iterdir()}
    with pytest.raises(CheckpointError, match=says):
        train_in_parts(tmp_path, [], **{"max_steps": 3, **change})
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "checkpoint-2").iterdir()}


def test_a_worker_that_outlives_its_run_leaves_the_folder(tmp_path):
    held = lock_folder(tmp_path)
    fork = multiprocessing.get_context("fork")
    is_there = fork.Event()
    worker = fork.Process(target=lambda: (is_there.set(), time.sleep(60)))
    worker.start()
    try:
        is_there.wait()
        with pytest.raises(RunFolderError):
            lock_folder(tmp_path)  # the run itself is still there
        held.close()
        lock_folder(tmp_path).close()
    finally:
        worker.kill()
        worker.join()


def test_two_runs_in_one_folder(tmp_path):
    with lock_folder(tmp_path), pytest.raises(RunFolderError, match=f"process {os.getpid()}"):
        train_in_parts(tmp_path, [], max_steps=2)
    train_in_parts(tmp_path, [], max_steps=2)


@pytest.mark.parametrize(
    "optim, package",
    [("adamw_8bit", "bitsandbytes"), ("lion_8bit", "bitsandbytes"), ("adamw_torch_8bit", "torchao")],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_optimizers_of_few_bits_resume_exactly(tmp_path, optim, package):
    pytest.importorskip(package)
    changes = {"optim": optim, "make_model": lambda: tiny_model(hidden_size=64, intermediate_size=128)}
    whole = train_in_parts(tmp_path / "whole", [], max_steps=4, **changes)
    parts = train_in_parts(tmp_path / "parts", [3], max_steps=4, **changes)
    assert_equal(whole[0], parts[0])
    assert whole[1] == parts[1]


def test_a_state_cannot_choose_what_is_imported(tmp_path):
    from martlet.formats.files import write_json
    from martlet.training.statefile import load_tree, save_tree

    save_tree(tmp_path, "optimizer", {"a": torch.zeros(2)})
    packed = ["os", "system", {"dict": []}, None]
    write_json(tmp_path / "optimizer.json", {"tree": {"packed": packed}})
    with pytest.raises(CheckpointError, match=r"of torchao\.optim"):
        load_tree(tmp_path, "optimizer")


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": {}}', '{"files": [1]}', '{"files": {"run.json": 3}}', '{"fil'])
def test_a_manifest_that_says_nothing_is_passed_over(tmp_path, text):
    train_in_parts(tmp_path, [], max_steps=4)
    (tmp_path / "checkpoint-4" / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="is not a checkpoint: manifest"):
        check_checkpoint(tmp_path / "checkpoint-4")
    assert newest_good(tmp_path).name == "checkpoint-2"
