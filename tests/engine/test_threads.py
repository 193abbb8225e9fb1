"""The engine's threads: how many, what interrupts them, and what they leave behind."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import transformers

import martlet
from martlet import engine
from martlet.errors import ArgumentError

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")
load = martlet.AutoModelForCausalLM.from_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, max_position_embeddings=100_000)
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "20000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/../elsewhere\n", "sys/fs/cgroup/cpu.max": "1 0\n"}, None),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n3:memory:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "90000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        ({"proc/self/cgroup": "nonsense\n:\n0::", "sys/fs/cgroup/cpu.max": "words"}, None),
    ],
)
def test_quotas_of_cgroups(tmp_path, files, count):
    from martlet.engine.extension import native

    for path, text in files.items():
        write(tmp_path, path, text)
    assert native().available_processors(str(tmp_path)) == (count or len(os.sched_getaffinity(0)))


def test_affinity(folder):
    code = """if True:
        import os, sys
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import martlet
        print(martlet.AutoModelForCausalLM.from_pretrained(sys.argv[1], backend="native").engine.num_threads)
    """
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("given", [0, -1, 4 * 1024, "many"])
def test_counts_that_are_refused(folder, given, monkeypatch):
    with pytest.raises(ArgumentError, match=f"must be 1 to .* processors this process may use; found {given}"):
        load(folder, backend="native", num_threads=given)
    monkeypatch.setenv("MARTLET_NUM_THREADS", str(given))
    with pytest.raises(ArgumentError, match="four for each"):
        load(folder, backend="native")


def test_several_engines_at_once(folder):
    models = [load(folder, backend="native", num_threads=threads) for threads in (1, 2, 3)]
    fields = {"max_new_tokens": 30, "do_sample": True, "seed": 1, "eos_token_id": None}
    want = models[0].generate([[3, 4, 5], [6]], **fields)
    got = []
    threads = [
        threading.Thread(target=lambda model=model: got.append(model.generate([[3, 4, 5], [6]], **fields)))
        for model in models * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [want] * 6


@pytest.mark.parametrize("what", ["decode", "prefill"])
def test_ctrl_c(folder, what):
    """The interrupt is sent from the same process once it is under way, so nothing depends on how fast this is."""
    model = load(folder, backend="native", num_threads=1)
    prompt = np.random.default_rng(0).integers(3, 90, 8 if what == "decode" else 20_000).tolist()
    begun = threading.Event()
    plain = engine.EngineSession.advance if what == "decode" else engine.EngineSession.step

    def watched(session, *given, **keywords):
        begun.set()
        return plain(session, *given, **keywords)

    def interrupt():
        begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.EngineSession, "advance" if what == "decode" else "step", watched)
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            model.generate([prompt], max_new_tokens=50_000, do_sample=False, eos_token_id=None)
        thread.join()
    fed = model.engine.rows.engine.pages_held
    assert fed * 16 < 19_000, "it stopped before the end"
    assert len(model.generate([[3, 4]], max_new_tokens=3, do_sample=False, eos_token_id=None)[0]) == 5


def test_cancelled_while_prompts_are_read(folder):
    model = load(folder, backend="native")
    asked = iter([False, False, False, True, True])
    prompt = np.random.default_rng(0).integers(3, 90, 20_000).tolist()
    output = model.generate([prompt], stop=lambda: next(asked), return_dict_in_generate=True)
    assert output.finish_reasons == ["cancelled"] and output.num_new_tokens == [0]


def test_the_interpreter_lock_is_free_while_it_generates(folder):
    model = load(folder, backend="native", num_threads=1)
    ended, count = threading.Event(), 0

    def go():
        model.generate([[3, 4]], max_new_tokens=400, do_sample=False, eos_token_id=None)
        ended.set()

    thread = threading.Thread(target=go)
    thread.start()
    while not ended.wait(0.0005):
        count += 1
    thread.join()
    assert count > 3


def test_a_child_of_a_process_that_generates(folder):
    """Forked while another thread is in a step: the child has an engine of its own."""
    code = """if True:
        import os, sys, threading, warnings, martlet
        warnings.simplefilter("ignore")
        model = martlet.AutoModelForCausalLM.from_pretrained(sys.argv[1], backend="native", num_threads=2)
        fields = dict(do_sample=False, eos_token_id=None)
        want = model.generate([[3, 4, 5]], max_new_tokens=5, **fields)
        flag = threading.Event()
        thread = threading.Thread(
            target=lambda: model.generate([[7]], max_new_tokens=50_000, stop=flag.is_set, **fields)
        )
        thread.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if model.generate([[3, 4, 5]], max_new_tokens=5, **fields) == want else 1)
            assert os.waitpid(child, 0)[1] == 0
        flag.set()
        thread.join()
    """
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=300)


ENDS = """
import sys, threading, martlet
model = martlet.AutoModelForCausalLM.from_pretrained(sys.argv[1], backend="native")
begun = threading.Event()

class Streamer(martlet.BaseStreamer):
    def put(self, value):
        begun.set()

    def end(self):
        pass

options = {"max_new_tokens": 90_000, "eos_token_id": None, "pad_token_id": 0}
for streamer in (None, Streamer()):
    asked = lambda streamer=streamer: model.generate([[1, 2, 3]], streamer=streamer, **options)
    threading.Thread(target=asked, daemon=True).start()
begun.wait()
sys.exit(5)
"""


def test_a_process_ends_in_silence_while_threads_generate(folder):
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", ENDS, str(folder)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (5, "")
