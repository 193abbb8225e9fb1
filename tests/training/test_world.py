"""Real processes as torchrun starts them: the same gradients on any number of ranks, shards, lost ranks."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_chats import CHAT, PLAIN, make_tokenizer
from tiny import assert_equal, assert_near, tiny_model

from martlet.errors import CheckpointError
from martlet.training import PeftModel
from martlet.training.checkpoints import check_checkpoint, list_checkpoints
from martlet.training.verify import verify_checkpoint

SCRIPT = Path(__file__).with_name("run_script.py")


def start_ranks(output, size, **named):
    """What torchrun does, with the processes at hand to kill one."""
    words = [f"{name}={json.dumps(value)}" for name, value in named.items()]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent), "MASTER_ADDR": "127.0.0.1"}
    env |= {"MASTER_PORT": str(port), "WORLD_SIZE": str(size), "GLOO_SOCKET_IFNAME": "lo"}
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(output), *words],
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]  # fmt: skip


def run_ranks(output, size, **named):
    for process in start_ranks(output, size, **named):
        _, error = process.communicate()
        assert process.returncode == 0, error.decode()[-3000:]
    return torch.load(output / f"{named.get('dump', 'end')}.pt"), json.loads(
        (output / f"{named.get('dump', 'end')}.json").read_text()
    )


STEPS = {"num_train_epochs": 1, "rows": 22, "optim": "sgd", "learning_rate": 0.5, "save_strategy": "no"}


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_run(tmp_path):
    """22 rows in steps of 6: the last step has 4 rows, so that of three ranks one stays without any."""
    alone, history = run_ranks(tmp_path / "1", 1, **STEPS, per_device_train_batch_size=6)
    for size, batch, accumulation, fsdp in ((2, 1, 3, False), (3, 2, 1, False), (2, 3, 1, True), (3, 2, 1, True)):
        ours, found = run_ranks(
            tmp_path / f"{size}-{batch}", size, **STEPS, per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation, fsdp=fsdp,
        )  # fmt: skip
        assert_near(alone, ours, atol=1e-6)
        losses = [[each["loss"] for each in run[0] if "loss" in each] for run in (history, found)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_torchrun_starts_it(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent), "GLOO_SOCKET_IFNAME": "lo"}
    words = [f"{name}={json.dumps(value)}" for name, value in STEPS.items()]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT),
         str(tmp_path / "two"), *words, "per_device_train_batch_size=3"],
        env=env, check=True, capture_output=True,
    )  # fmt: skip
    alone, _ = run_ranks(tmp_path / "one", 1, **STEPS, per_device_train_batch_size=6)
    assert_near(alone, torch.load(tmp_path / "two" / "end.pt"), atol=1e-6)


@pytest.mark.slow
def test_shards_reload_on_another_number_of_ranks(tmp_path):
    shared = {
        "fsdp": True, "max_steps": 6, "save_steps": 3, "optim": "adamw_torch", "rows": 30,
        "gradient_accumulation_steps": 1,
    }  # fmt: skip
    whole, _ = run_ranks(tmp_path / "run", 2, **shared, per_device_train_batch_size=3, dump="whole")
    resumed = {"resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-3")}
    again, _ = run_ranks(tmp_path / "run", 2, **shared, **resumed, per_device_train_batch_size=3, dump="two")
    assert_equal(whole, again)
    three, _ = run_ranks(tmp_path / "run", 3, **shared, **resumed, per_device_train_batch_size=2, dump="three")
    assert_near(whole, three, atol=1e-5)
    alone = {**shared, "fsdp": False}
    one, _ = run_ranks(tmp_path / "run", 1, **alone, **resumed, per_device_train_batch_size=6, dump="one")
    assert_near(whole, one, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_evaluation_of_ranks_with_batches_or_without(tmp_path, fsdp):
    """Four rows, one a batch: of three ranks the first has two batches. The best weights come back at the end."""
    shared = {
        "max_steps": 6, "rows": 24, "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True, "save_steps": 2,
        "load_best_model_at_end": True, "learning_rate": 0.3, "optim": "sgd", "per_device_eval_batch_size": 1,
    }  # fmt: skip
    alone, (_, wanted) = run_ranks(tmp_path / "1", 1, **shared, per_device_train_batch_size=6)
    ours, (_, found) = run_ranks(tmp_path / "3", 3, **shared, per_device_train_batch_size=2, fsdp=fsdp)
    assert len(wanted) == 4 and found == pytest.approx(wanted, rel=1e-4)
    assert_near(alone, ours, atol=1e-5)


@pytest.mark.slow
def test_adapters_on_shards(tmp_path):
    """Saved whole by the first rank, gone on with on as many ranks to the bit, and on one; one rank alone has rows to
    evaluate, and for the last step."""
    shared = {"lora": True, "fsdp": True, "max_steps": 6, "save_steps": 3, "rows": 32, "learning_rate": 0.02}
    shared |= {"eval_strategy": "steps", "eval_steps": 2}
    whole, _ = run_ranks(tmp_path / "run", 2, **shared, per_device_train_batch_size=3, dump="whole")
    resumed = {"resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-3")}
    again, _ = run_ranks(tmp_path / "run", 2, **shared, **resumed, per_device_train_batch_size=3, dump="two")
    assert_equal(whole, again)
    adapter = PeftModel.from_pretrained(tiny_model(), tmp_path / "run" / "checkpoint-6")
    found = {name: each for name, each in adapter.state_dict().items() if "lora_" in name}
    assert_equal({name: whole[name] for name in found}, found)
    one, _ = run_ranks(
        tmp_path / "run", 1, **{**shared, "fsdp": False}, **resumed, per_device_train_batch_size=6, dump="one"
    )
    assert_near(whole, one, atol=1e-5)


@pytest.mark.slow
def test_a_lost_rank_ends_the_others(tmp_path):
    ranks = start_ranks(
        tmp_path, 2, num_train_epochs=1000, rows=22, per_device_train_batch_size=3, save_steps=5, save_total_limit=2
    )
    while not list(tmp_path.glob("checkpoint-*")):
        assert all(each.poll() is None for each in ranks)
        time.sleep(0.05)
    os.kill(ranks[1].pid, signal.SIGKILL)
    _, error = ranks[0].communicate()
    ranks[1].communicate()
    assert ranks[0].returncode == 1
    assert "LostRankError" in error.decode(), error.decode()[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_rank_0_lost_within_a_save(tmp_path, fsdp):
    """The others are told; what was saved before is whole, and goes on to the same bits, and on one process alone."""
    shared = {"max_steps": 6, "save_steps": 2, "rows": 30, "optim": "adamw_torch"}
    both = {**shared, "fsdp": fsdp, "per_device_train_batch_size": 3}
    whole, _ = run_ranks(tmp_path / "whole", 2, **both, dump="whole")
    first, second = start_ranks(tmp_path / "run", 2, **both, die_at="within save 4")
    _, error = second.communicate()
    first.communicate()
    assert (first.returncode, second.returncode) == (-9, 1)
    assert "LostRankError" in error.decode(), error.decode()[-2000:]
    assert [each.name for each in list_checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    check_checkpoint(tmp_path / "run" / "checkpoint-2")
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    again, _ = run_ranks(tmp_path / "run", 2, **both, resume_from_checkpoint="auto", dump="two")
    assert_equal(whole, again)
    one, _ = run_ranks(
        tmp_path / "alone", 1, **shared, per_device_train_batch_size=6, resume_from_checkpoint="auto", dump="one"
    )
    assert_near(whole, one, atol=1e-5)


@pytest.mark.slow
def test_a_rank_that_is_told_to_end_says_so(tmp_path):
    """torchrun sends SIGTERM to the ranks that are left, which may come before they miss the lost one."""
    ranks = start_ranks(tmp_path, 2, num_train_epochs=1000, rows=22, per_device_train_batch_size=3, save_steps=5)
    while not list(tmp_path.glob("checkpoint-*")):
        assert all(each.poll() is None for each in ranks)
        time.sleep(0.05)
    ranks[1].terminate()
    errors = [each.communicate()[1].decode() for each in ranks]
    assert [each.returncode for each in ranks] == [1, 1]
    assert all("LostRankError" in error for error in errors), errors


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_a_checkpoint_of_two_ranks_is_verified_by_two(tmp_path, fsdp):
    model = tiny_model(vocab_size=len(tokenizer := make_tokenizer(PLAIN)))
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": CHAT[:3]}) + "\n" + json.dumps({"messages": CHAT}))
    given = {
        "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 1, "max_steps": 4, "save_steps": 2,
        "report_html": False, "disable_tqdm": True, "use_cpu": True, "fsdp": fsdp,
    }  # fmt: skip
    config = {"model": str(tmp_path / "model"), "train_data": str(tmp_path / "rows.jsonl"), "training": given}
    (tmp_path / "run.yaml").write_text(json.dumps(config))

    def run(*words):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run([*start, "-m", "martlet", "train", *words], env=env, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    newest = str(tmp_path / "out" / "checkpoint-4")
    code, _, error = run(str(tmp_path / "run.yaml"))
    assert code == 0, error
    code, said, error = run("verify", newest)
    assert code == 0 and "replayed from step 2 to 4" in said, error
    with pytest.raises(CheckpointError, match=r"found 1 for 2\. torchrun --nproc-per-node 2"):
        verify_checkpoint(Path(newest))
