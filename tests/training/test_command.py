"""`martlet train`: a config that is written, planned, trained, gone on with, and verified."""

import json

import pytest
import yaml
from test_chats import CHAT, PLAIN, make_tokenizer
from tiny import tiny_model

from martlet.cli import main

pytest.importorskip("pyarrow")


@pytest.fixture
def config(tmp_path):
    tokenizer = make_tokenizer(PLAIN)
    folder = tmp_path / "model"
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = [{"messages": CHAT[:3]}, {"messages": CHAT}, {"messages": CHAT[:3]}, {"messages": CHAT}] * 2
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "model": str(folder),
        "train_data": str(tmp_path / "rows.jsonl"),
        "training": {
            "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 2, "max_steps": 6, "save_steps": 2,
            "report_html": False, "disable_tqdm": True, "resume_from_checkpoint": "auto", "learning_rate": 1e-3,
        },
    }  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def test_a_run_from_a_file(config, tmp_path, capsys):
    assert main(["train", "plan", str(config), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["steps"], plan["rows"], plan["samples_a_step"]) == (6, 8, 2)
    assert plan["memory_bytes"] == sum(plan["memory"].values()) > plan["parameters"] * 12
    assert plan["trainable"] == plan["parameters"]
    assert main(["train", "plan", str(config), "--set", "training.gradient_checkpointing=true", "--json"]) == 0
    twice = json.loads(capsys.readouterr().out)["memory"]
    assert twice["kept"] < plan["memory"]["kept"]
    assert twice["gradients"] >= plan["memory"]["gradients"]  # they grow as what is kept goes
    assert main(["train", "plan", str(config), "--set", "training.gradient_accumulation_steps=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"]["gradients"] == 4 * plan["parameters"]
    assert main(["train", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_loss"] > 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert main(["train", "verify", str(tmp_path / "out" / "checkpoint-4")]) == 0
    assert "replayed from step 2 to 4" in capsys.readouterr().out


def test_a_checkpoint_that_was_changed(config, tmp_path, capsys):
    """Hashes that fit are not enough: the steps are replayed."""
    from martlet.training.checkpoints import write_manifest
    from martlet.training.statefile import load_tree, save_tree

    assert main(["train", str(config)]) == 0
    folder = tmp_path / "out" / "checkpoint-4"
    tree = load_tree(folder, "optimizer")
    tree["state"][0]["exp_avg"][0, 0] += 1e-6
    save_tree(folder, "optimizer", tree)
    assert main(["train", "verify", str(folder)]) == 2
    assert "torn" in capsys.readouterr().err
    write_manifest(folder)
    assert main(["train", "verify", str(folder)]) == 2
    assert "optimizer.state.0.exp_avg" in capsys.readouterr().err


def test_adapters_from_a_file(config, tmp_path, capsys):
    """`lora` is planned and trained, DoRA and a quantised base too; its files are an adapter's."""
    from martlet.training import PeftModel

    lora = "lora={r: 4, target_modules: all-linear, use_dora: true}"
    words = ["--set", lora, "--set", "training.max_steps=2"]
    assert main(["train", "plan", str(config), "--json"]) == 0
    full = json.loads(capsys.readouterr().out)
    assert main(["train", "plan", str(config), *words, "--set", "quantize=int8", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trainable"] < plan["parameters"] == full["parameters"]
    assert plan["memory"]["weights"] - 4 * plan["trainable"] < full["memory"]["weights"]
    assert plan["memory"]["optimizer"] == 8 * plan["trainable"]
    for more in ([], ["--set", "quantize=int8", "--set", f"training.output_dir={tmp_path / 'packed'}"]):
        assert main(["train", str(config), *words, *more, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["train_loss"] > 0
    found = PeftModel.from_pretrained(tiny_model(vocab_size=len(make_tokenizer(PLAIN))), tmp_path / "out")
    assert found.active_peft_config.use_dora


def test_a_plan_counts_what_modules_keep():
    """Against what autograd really holds of a batch, block by block and computed twice."""
    import torch

    from martlet.training.memory import count_kept, without_storage

    real = tiny_model().train()
    parameters = {each.untyped_storage()._cdata for each in real.parameters()}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            held[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each):
        out = real.model(torch.zeros(2, 32, dtype=torch.int64))
    with without_storage():
        kept = count_kept(tiny_model().train(), (32, 32))
    assert kept.at_once(False) == sum(size for size, _ in held.values())
    assert kept.at_once(True) < kept.at_once(False)
    assert len(kept.blocks) == 2
    del out


def test_the_example_is_read(tmp_path, capsys):
    from martlet.training.config import read_config

    assert main(["train", "init", str(tmp_path / "run.yaml")]) == 0
    found = read_config(tmp_path / "run.yaml", ["training.learning_rate=1e-4", "dtype=bfloat16"])
    assert found["training"]["learning_rate"] == 1e-4
    assert found["dtype"] == "bfloat16"
    assert main(["train", "init", str(tmp_path / "run.yaml")]) == 2


@pytest.mark.parametrize(
    "changes, says",
    [
        (["modle=x"], "has no key 'modle'"),
        (["training.learning_rat=1"], "learning_rate meant"),
        (["task=poetry"], "task must be one of"),
        (["train_data=rows.doc"], "must be one of .jsonl"),
        (["model"], "must be key=value"),
        (["lora={rank: 4}"], "lora has no key 'rank'"),
        (["quantize=int4"], "needs lora"),
        (["lora={}", "quantize=int3"], "must be one of int8, int4"),
    ],
)
def test_what_is_refused(config, capsys, changes, says):
    words = [word for change in changes for word in ("--set", change)]
    assert main(["train", str(config), *words]) == 2
    assert says in capsys.readouterr().err
