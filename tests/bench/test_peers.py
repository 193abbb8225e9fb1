"""Other engines beside ours: which model each takes, and that what is measured of them is the same model's work."""

import os
import sys

import numpy as np
import pytest
from chat_model import save_chat_model

import martlet
from martlet import engine
from martlet.bench.peers import PEERS, why_absent, why_unfit
from martlet.bench.run import Worker, WorkerError
from martlet.cli import main

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

PYTHON = os.environ.get("MARTLET_PEER_PYTHON", sys.executable)


@pytest.mark.parametrize(
    "name, model, wants_logits, said",
    [
        ("llama.cpp", "folder", False, "reads GGUF files alone"),
        ("llama.cpp", "a.gguf", True, None),
        ("CTranslate2", "a.gguf", False, "converts Hugging Face folders alone"),
        ("CTranslate2", "folder", True, None),
        ("OpenVINO", "folder", False, "reads GGUF files alone"),
        ("OpenVINO", "a.gguf", True, "does not hand out logits"),
        ("OpenVINO", "a.gguf", False, None),
        ("transformers", "folder", True, None),
        ("transformers", "a.gguf", True, None),
    ],
)
def test_who_takes_what(name, model, wants_logits, said):
    found = why_unfit(PEERS[name], model, wants_logits=wants_logits)
    assert found is None if said is None else f"{name} is left out: it {said}" == found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("peers") / "model"
    save_chat_model(path)
    return path


def start(name, model, **options):
    if reason := why_absent(PEERS[name], PYTHON):
        pytest.skip(reason)
    worker = Worker(name, PYTHON)
    try:
        worker.ask(do="load", model=str(model), threads=1, context=64, rows=3, options=options)
    except WorkerError:
        worker.close()
        raise
    return worker


def generates(worker):
    """One prompt, whose first token is timed, and three of several lengths, whose is not."""
    one = worker.ask(do="generate", prompts=[[5, 6, 7, 8]], new_tokens=6)
    assert 0 < one["first_s"] < one["total_s"] and one["new_tokens"] == 6
    three = worker.ask(do="generate", prompts=[[5, 6, 7, 8], [9, 10], [11, 12, 13]], new_tokens=6)
    assert three["first_s"] == 0 < three["total_s"] and three["new_tokens"] == 18


@pytest.mark.slow
@pytest.mark.parametrize("compute_type", ["int8", "float32"])
def test_ctranslate2(folder, tmp_path, compute_type):
    converted = tmp_path / "converted"
    worker = start("CTranslate2", folder, converted=str(converted), compute_type=compute_type)
    ids = list(range(7, 40))
    try:
        generates(worker)
        shape = worker.ask(do="logits", ids=ids, path=str(tmp_path / "logits"))["shape"]
    finally:
        worker.close()
    assert (converted / "model.bin").is_file()
    theirs = np.fromfile(tmp_path / "logits", np.float32).reshape(shape)
    ours = martlet.AutoModelForCausalLM.from_pretrained(folder, backend="native", dtype="float32")
    session = ours.open_session()
    found = session.step([(session.add(), ids)], logits="all").logits
    session.close()
    assert theirs.shape == found.shape
    if compute_type == "float32":  # its eight bits have one scale a row, which weights this wide do not bear
        assert np.abs(theirs - found).max() < 1e-4 * np.abs(found).max()


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["PA", "SDPA"])
def test_openvino(folder, tmp_path, attention):
    path = tmp_path / "model.gguf"
    assert main(["quantize", str(folder), "--to", "f16", "--out", str(path)]) == 0
    worker = start("OpenVINO", path, attention=attention)
    try:
        generates(worker)
        with pytest.raises(WorkerError, match="does not hand out logits"):
            worker.ask(do="logits", ids=[1, 2], path=str(tmp_path / "logits"))
    finally:
        worker.close()
