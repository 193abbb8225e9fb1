"""Memory between blocks: freed blocks go back to the system, and the numbers of a run stay the same."""

from itertools import count

import pytest
from tiny import assert_equal, make_rows, tiny_model

from martlet.nn.decoder import Block
from martlet.training import Trainer, TrainerCallback, TrainingArguments, heap

MB = 1 << 20


@pytest.fixture
def eager(monkeypatch):
    """Heaps whose memory grows by holes alone, so that they trim each time; all of the test's, in order."""
    made, begin, held = [], heap.Heap.__init__, count(1 << 40, 1 << 30)
    monkeypatch.setattr(heap, "_private_bytes", lambda: next(held))

    def keep(self, is_used=True):
        begin(self, is_used)
        made.append(self)

    monkeypatch.setattr(heap.Heap, "__init__", keep)
    return made


needs_glibc = pytest.mark.skipif(heap._glibc() is None, reason="the C library has no malloc_trim and mallinfo2")


@needs_glibc
def test_holes_are_given_back():
    bytearray(4 * MB).clear()  # from now on blocks of this size lie in the heap
    looked_after = heap.Heap()
    blocks, pins = [], []
    for _ in range(100):
        blocks.append(bytearray(b"1") * (2 * MB))
        pins.append(bytearray(5000))  # holds the heap's end up
    full = heap._private_bytes()
    looked_after.tidy()
    assert heap._private_bytes() > full - 20 * MB  # what is in use stays
    looked_after.ceiling = 0
    blocks.clear()
    looked_after.tidy()
    assert heap._private_bytes() < full - 150 * MB
    times = looked_after.times
    looked_after.tidy()  # nothing grew
    assert looked_after.times == times
    assert len(pins) == 100


def run(folder, checkpointing=False):
    model, places = tiny_model(), []

    class Look(TrainerCallback):
        def on_step_end(self, *_, **__):
            places.append(sum(len(each._forward_hooks) for each in model.modules() if isinstance(each, Block)))

    args = TrainingArguments(folder, max_steps=3, per_device_train_batch_size=2, report_html=False, disable_tqdm=True,
                             gradient_checkpointing=checkpointing)  # fmt: skip
    Trainer(model, args, train_dataset=make_rows(6), callbacks=[Look()]).train()
    assert places == [0, 0, 0]  # generate in a callback finds a model without hooks
    return model.state_dict()


@needs_glibc
@pytest.mark.parametrize("checkpointing", [False, True])
def test_trimming_changes_no_number(tmp_path, eager, monkeypatch, checkpointing):
    trimmed = run(tmp_path / "trimmed", checkpointing)
    assert eager[-1].times > 1
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    plain = run(tmp_path / "plain", checkpointing)
    assert eager[-1].times == 0
    assert_equal(trimmed, plain)


def test_another_c_library_is_left_alone(monkeypatch):
    heap._glibc.cache_clear()
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    try:
        assert heap._glibc() is None
        heap.Heap().tidy()
    finally:
        heap._glibc.cache_clear()
