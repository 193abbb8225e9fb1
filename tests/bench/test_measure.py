"""The machine measured: rates that can be, limits that are refused, and work counted by hand."""

import json
import subprocess
import sys

import pytest

from martlet import engine
from martlet.arch import Arch, Layer, Rope
from martlet.bench import limits, machine, run, worker
from martlet.engine import measure
from martlet.errors import ArgumentError

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

QUICK = {"repeats": 2, "seconds": 0.002}
USABLE = [each.name for each in engine.instruction_sets() if each.is_usable] if engine.is_built() else []


@pytest.mark.parametrize("isa", USABLE)
def test_every_set_here_is_measured(isa):
    peaks = measure.measure_peaks(isa, 1, **QUICK)
    assert list(peaks) == ["int8", "int4", "bf16", "fp32"]
    for peak in peaks.values():
        assert peak.operations.best >= peak.operations.median > 1e7
        assert peak.how


def test_a_set_that_is_not_here_is_refused():
    for each in engine.instruction_sets():
        if not each.is_usable:
            with pytest.raises(ArgumentError, match="needs"):
                measure.measure_peaks(each.name, 1, **QUICK)
    with pytest.raises(ArgumentError, match="must be one of"):
        measure.measure_peaks("mmx", 1, **QUICK)


def test_reading_is_measured_for_any_size():
    for num_bytes, num_threads in ((1, 1), (4096, 3), (1 << 22, 2)):
        rate = measure.measure_read(num_bytes, num_threads, 2)
        assert rate.best >= rate.median > 1e6


@pytest.mark.parametrize(
    "files, quota",
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "damaged"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_groups_quota(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.find_quota(tmp_path) == quota


def test_work_is_counted_by_hand():
    arch = Arch(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        layers=(Layer(rope=Rope(10_000.0)), Layer(rope=Rope(10_000.0), window=3)),
        max_position_embeddings=64,
        tied=True,
    )
    names = [f"model.layers.{layer}.{name}.weight" for layer in (0, 1) for name, _, _ in limits.linear_shapes(arch)]
    kinds = dict.fromkeys(names, "Q4_0") | {"model.embed_tokens.weight": "F32", "lm_head.weight": "Q8_0"}
    rate = measure.Rate(1e9, 1e9)
    peaks = {name: measure.Peak(name, "", rate) for name in ("int8", "int4", "bf16", "fp32")}
    found = machine.Limits(rate, rate, peaks)
    work = limits.find_work(arch, kinds, 1000, run.Load((5, 5), 4), found)
    block = 64 * 64 * 2 + 64 * 32 * 2 + 64 * 96 * 3  # q and o, k and v, gate up down
    pairs = (1 + 2 + 3 + 4 + 5) + (1 + 2 + 3 + 3 + 3)
    assert work.prefill_operations == {
        "int4": 2 * 2 * block * 10,
        "int8": 2 * 100 * 64 * 2,
        "fp32": 2 * 4 * pairs * 64,
    }
    cached = 2 * ((7 + 3) * 2 * 32 * 2)  # rows, positions kept of each layer, keys and values, of 32 numbers of 2 bytes
    assert work.step_bytes == 1000 + cached
    assert work.decode_limit(found) == pytest.approx(2e9 / (1000 + cached))
    assert work.prefill_s(found) == pytest.approx(sum(work.prefill_operations.values()) / 1e9)


def test_prompts_differ_from_run_to_run():
    load = run.Load((7, 3), 2)
    one, other = load.prompts(5000, 1), load.prompts(5000, 2)
    assert [len(each) for each in one] == [7, 3]
    assert one != other and one == load.prompts(5000, 1)
    assert min(min(each) for each in one) >= 1000


class Steady:
    """An engine that takes 2 s to read a prompt and 1 s a token after the first."""

    def __init__(self):
        self.asked = []

    def ask(self, **asked):
        self.asked.append(asked)
        return {"first_s": 2.0, "total_s": 2.0 + (asked["new_tokens"] - 1), "new_tokens": 0}

    def close(self):
        pass


@pytest.mark.parametrize("rows", [1, 3])
def test_rates_are_of_the_times(rows):
    series = run.run_in_turn({"a": Steady(), "b": Steady()}, run.Load((10,) * rows, 5), 100, 2)
    assert [len(each.runs) for each in series.values()] == [2, 2]
    assert series["a"].median("prefill") == 5 * rows
    assert series["a"].median("decode") == rows
    assert series["a"].median("job") == pytest.approx(5 * rows / 6)
    assert run.ratio(series["a"], series["b"], "decode") == 1.0


def test_a_worker_says_what_is_wrong_and_goes_on():
    asked = [{"do": "fly"}, {"do": "load"}, {"do": "fly"}]
    done = subprocess.run(
        [sys.executable, worker.__file__, "martlet"],
        input="".join(json.dumps(each) + "\n" for each in asked),
        capture_output=True,
        text=True,
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["error"].split(":")[0] for each in said] == ["ValueError", "KeyError", "ValueError"]


def test_a_worker_that_ends_is_an_error_not_a_wait():
    broken = run.Worker("no such engine")
    with pytest.raises(run.WorkerError, match="its process ended"):
        broken.ask(do="load")
        broken.ask(do="load")
    broken.close()
