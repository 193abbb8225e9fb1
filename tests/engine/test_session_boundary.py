"""Sessions fuzzed, alone and from several threads: an error leaves every row as it was; nothing ends the process."""

import random
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from martlet import engine
from martlet.arch import tensors
from martlet.engine import build_engine_model
from martlet.engine.chooser import EngineChooser
from martlet.errors import CacheMemoryError, GenerationError, MartletError
from martlet.families import Config
from martlet.formats.tensors import TensorInfo, TensorSource
from martlet.generation.backend import Choice
from martlet.weights import Piece

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

VOCAB = 96
CONFIG = {
    "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
}  # fmt: skip
REFUSALS = (MartletError, KeyError, TypeError, ValueError, OverflowError)
TOKENS = st.integers(0, VOCAB - 1)
WRONG = st.sampled_from([-1, VOCAB, 2**31, -(2**31) - 1, 2**40, -(2**70), 1.5, None, "7", True, np.int64(3), np.nan])
LISTS = st.lists(TOKENS, min_size=1, max_size=40) | st.lists(TOKENS | WRONG, max_size=4) | WRONG
ROWS = st.integers(0, 5) | WRONG
LENGTHS = st.integers(0, 50) | WRONG


class Numbers(TensorSource):
    """Random weights in memory."""

    def __init__(self, arch):
        rng = np.random.default_rng(0)
        self.values = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in tensors(arch).items()}
        self.paths, self.metadata = (), {}

    def names(self):
        return tuple(self.values)

    def info(self, name):
        return TensorInfo(name, "F32", self.values[name].shape, self.values[name].nbytes)

    def raw(self, name):
        return self.values[name].reshape(-1).view(np.uint8)

    def close(self):
        self.values.clear()


def make_model(num_threads=1, rotation=None, **options):
    arch = Config(CONFIG | ({"rope_parameters": rotation} if rotation else {})).arch
    source = Numbers(arch)
    return build_engine_model(
        arch, source, {name: Piece(name) for name in source.names()}, num_threads=num_threads, **options
    )


PLAIN = {"rope_type": "default", "rope_theta": 1e4}


def greedy(length=0, ends=()):
    return EngineChooser(Choice(ends=ends, longest=length), 0, np.array([], np.int64), VOCAB)


@dataclass
class Mirror:
    """What a session's rows must hold."""

    session: object
    rows: dict = field(default_factory=dict)

    def run(self, name, *arguments):
        try:
            return getattr(self, name)(*arguments)
        except REFUSALS:
            pass
        finally:
            for row, ids in self.rows.items():
                assert self.session.length(row) == len(ids), (name, arguments)

    def add(self):
        self.rows[self.session.add()] = []

    def fork(self, row):
        self.rows[self.session.fork(row)] = list(self.rows[row])

    def truncate(self, row, length):
        self.session.truncate(row, length)
        del self.rows[row][max(0, length) :]

    def release(self, row, keep):
        self.session.release(row, keep=keep)
        del self.rows[row]

    def step(self, batch, logits):
        scores = self.session.step(batch, logits=logits).logits
        assert scores.shape == (len(batch) if logits == "last" else sum(len(ids) for _, ids in batch), VOCAB)
        for row, ids in batch:
            self.rows[row] += [int(token) for token in ids]

    def advance(self, batch, max_steps, length):
        steps = self.session.advance(batch, [greedy(length) for _ in batch], max_steps)
        assert bool(batch) <= len(steps) <= max_steps
        for row, ids in batch:
            self.rows[row] += [int(token) for token in ids]
        for step in steps[:-1]:
            for (row, _), chosen in zip(batch, step, strict=True):
                self.rows[row].append(chosen.token)


@st.composite
def operations(draw):
    batch = st.lists(st.tuples(ROWS, LISTS), max_size=3)
    return draw(
        st.one_of(
            st.tuples(st.just("add")),
            st.tuples(st.just("fork"), ROWS),
            st.tuples(st.just("truncate"), ROWS, LENGTHS),
            st.tuples(st.just("release"), ROWS, st.booleans()),
            st.tuples(st.just("step"), batch, st.sampled_from(["last", "all"])),
            st.tuples(st.just("advance"), batch, st.integers(-1, 5), st.integers(-2, 40)),
        )
    )


MODELS = {}


def shared_model(key, **options):
    if key not in MODELS:
        MODELS[key] = make_model(**options)
    return MODELS[key]


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["dynamic", "plain", "limited"]), st.lists(operations(), min_size=1, max_size=12))
def test_rows_are_as_they_were_after_any_error(kind, asked):
    options = {"plain": {"rotation": PLAIN}, "limited": {"rotation": PLAIN, "kv_cache_bytes": 40_000}, "dynamic": {}}
    model = shared_model(kind, **options[kind])
    mirror = Mirror(model.open_session())
    try:
        mirror.add()
        for name, *arguments in asked:
            mirror.run(name, *arguments)
        for row, ids in mirror.rows.items():
            try:
                found = mirror.session.step([(row, [5])]).logits
            except CacheMemoryError:
                assert kind == "limited"
                continue
            other = shared_model("fresh " + kind, **options["dynamic" if kind == "dynamic" else "plain"]).open_session()
            want = other.step([(other.add(), [*ids, 5])]).logits
            other.close()
            assert np.array_equal(found, want), (row, ids)
    finally:
        mirror.session.close()
    assert model.rows.engine.pages_held <= sum(-(-len(ids) // 16) for ids in model.rows._kept.values())


def test_threads_at_once_on_one_engine_with_anything():
    """Each thread's rows are its own; some ask for what is wrong, some close, and all share one limit."""
    model = make_model(2, PLAIN, kv_cache_bytes=200_000)
    alone = make_model(1, PLAIN)
    failures = []

    def go(seed):
        rng = random.Random(seed)
        try:
            for _ in range(12):
                mirror = Mirror(model.open_session())
                mirror.add()
                for _ in range(8):
                    row = rng.choice([*mirror.rows, 77, -1])
                    ids = [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 30))]
                    if rng.random() < 0.2:
                        ids[rng.randrange(len(ids))] = rng.choice([-1, VOCAB, 2**33])
                    mirror.run(*rng.choice([
                        ("step", [(row, ids)], "all"), ("step", [(row, ids), (row, ids)], "last"), ("fork", row),
                        ("advance", [(row, ids)], rng.randrange(0, 9), 0), ("truncate", row, rng.randrange(40)),
                        ("add",), ("release", row, True),
                    ]))  # fmt: skip
                for row, ids in mirror.rows.items():
                    if len(ids) < 60:
                        try:
                            found = mirror.session.step([(row, [9])]).logits
                        except CacheMemoryError:
                            continue
                        other = alone.open_session()
                        if not np.array_equal(found, other.step([(other.add(), [*ids, 9])]).logits):
                            failures.append((seed, row, ids))
                        other.close()
                mirror.session.close()
        except BaseException as error:  # told to who started the thread
            failures.append((seed, repr(error)))

    threads = [threading.Thread(target=go, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []


@pytest.mark.parametrize("token", [-1, VOCAB, 2**31, -(2**40)])
def test_a_token_that_is_none_is_named(token):
    session = shared_model("plain", rotation=PLAIN).open_session()
    with pytest.raises(GenerationError, match=f"token {token} is outside the vocabulary"):
        session.step([(session.add(), [1, token, 2])])
    session.close()


def test_a_session_that_others_close_meanwhile():
    model = make_model(1, PLAIN)
    session, said = model.open_session(), []
    row = session.add()

    def go():
        try:
            while True:
                session.step([(row, [3] * 5)])
                session.truncate(row, 5)
        except Exception as error:
            said.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    session.close()
    thread.join()
    assert len(said) == 1 and isinstance(said[0], (GenerationError, KeyError, IndexError)), said
    assert model.rows.engine.pages_held == 0


def test_a_listener_hears_each_step_before_the_next_and_ends_them():
    session = make_model(rotation=PLAIN).open_session()
    row, alone = session.add(), session.add()
    heard, lengths = [], []

    def listen(chosen):
        heard.append(chosen)
        lengths.append(session.length(row))
        return len(heard) < 3

    told = session.advance([(row, [5, 6])], [greedy()], 9, listen)
    assert told == heard and len(heard) == 3
    assert told == session.advance([(alone, [5, 6])], [greedy()], 3)
    assert session.length(row) == session.length(alone) == 4
    assert lengths == [2, 2, 2]  # the session counts what was told once the call is over
    following = [(each, [heard[-1][0].token]) for each in (row, alone)]
    ours, theirs = session.step(following).logits
    assert np.array_equal(ours, theirs)
    session.close()


@pytest.mark.parametrize("kind", [ValueError, MemoryError, KeyboardInterrupt])
def test_what_a_listener_raises_comes_out_as_it_is(kind):
    session = make_model(rotation=PLAIN).open_session()
    row = session.add()
    count = 0

    def listen(chosen):
        nonlocal count
        count += 1
        if count == 2:
            raise kind("mine")
        return True

    with pytest.raises(kind, match=r"^mine$"):
        session.advance([(row, [5, 6])], [chooser := greedy()], 9, listen)
    assert count == 2
    assert len(session.advance([(row, [7])], [chooser], 2)) == 2  # neither row nor chooser is held any longer
    session.close()


@pytest.mark.parametrize("length", [-1, -9, 0])
def test_a_row_cut_before_its_start_is_empty(length):
    session = make_model(rotation=PLAIN).open_session()
    row = session.add()
    session.step([(row, [5, 6, 7])])
    session.truncate(row, length)
    assert session.length(row) == 0
    session.close()
