"""The native engine against the torch backend, with keys and values rounded as the engine keeps them."""

import numpy as np
import pytest
import torch

import martlet
from martlet import engine
from martlet.arch import whole
from martlet.checkpoint import open_checkpoint
from martlet.nn.cache import RowCache
from martlet.rope import turns_over

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

PROMPTS = [[3, 9, 27, 81, 5, 15], [7], list(range(3, 50)), [90, 4, 4, 90]]


@pytest.fixture(params=engine.KV_DTYPES)
def kv_cache_dtype(request):
    return request.param


@pytest.fixture
def rounded_cache(monkeypatch, kv_cache_dtype):
    plain, dtype = RowCache.append, getattr(torch, kv_cache_dtype)

    def append(self, layer, key, value):
        return plain(self, layer, key.to(dtype).float(), value.to(dtype).float())

    monkeypatch.setattr(RowCache, "append", append)


def build(folder, **keywords):
    opened = open_checkpoint(folder)
    source = opened.open_weights()
    return engine.build_engine_model(opened.arch, source, opened.locate(source, whole(opened.arch)), **keywords)


def turns(model, length):
    return any(turns_over(rope, 1, length) for rope in model.ropes)


def run(session, prompts, steps):
    """Logits of every token of the prompts, then of some steps of each row's own."""
    rows = [session.add() for _ in prompts]
    out = [session.step(list(zip(rows, prompts, strict=True)), logits="all").logits]
    for step in range(steps):
        out.append(session.step([(row, [11 + step + row]) for row in rows]).logits)
    return out


@pytest.fixture(scope="session")
def torch_model(folder):
    return martlet.AutoModelForCausalLM.from_pretrained(folder, dtype="float32", backend="torch")


# A key or value within float32's rounding of a tie may fall on the other side, in a few places: by 2^-8 of it or 2^-11.
TOLERANCES = {"bfloat16": (2e-2, 2e-4), "float16": (2.5e-3, 2e-4), "float32": (2e-4, 2e-5)}


def test_logits_equal_the_torch_backends(folder, torch_model, kv_cache_dtype, rounded_cache):
    want = run(torch_model.open_session(), PROMPTS, 12)
    got = run(build(folder, kv_cache_dtype=kv_cache_dtype).open_session(), PROMPTS, 12)
    everywhere, median = TOLERANCES[kv_cache_dtype]
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(theirs).max() > 0.5
        np.testing.assert_allclose(ours, theirs, atol=everywhere, rtol=everywhere)
        assert np.median(np.abs(ours - theirs)) < median


def test_a_row_is_itself_whatever_stands_beside_it(folder, kv_cache_dtype):
    model = build(folder, num_threads=2, kv_cache_dtype=kv_cache_dtype)
    session = model.open_session()
    together = run(session, PROMPTS, 5)
    starts = np.cumsum([0, *map(len, PROMPTS)])
    for threads in (1, 2, 4):
        for place, prompt in enumerate(PROMPTS):
            alone = build(folder, num_threads=threads, kv_cache_dtype=kv_cache_dtype).open_session()
            row = alone.add()
            pieces = [alone.step([(row, prompt[i : i + 3])], logits="all").logits for i in range(0, len(prompt), 3)]
            # a rotation that depends on the length of the row gives its first tokens others while they are the last
            kept = slice(-1, None) if turns(model, len(prompt)) else slice(None)
            whole = together[0][starts[place] : starts[place + 1]]
            assert np.array_equal(np.concatenate(pieces)[kept], whole[kept])
            for step in range(5):
                assert np.array_equal(alone.step([(row, [11 + step + place])]).logits[0], together[1 + step][place])


def test_a_row_in_batches_of_1_7_and_32(folder, kv_cache_dtype):
    """With 1, 2 and 4 threads, whole and in chunks, its beginning shared and read again, in any company."""
    rng = np.random.default_rng(0)
    want = None
    for threads in (1, 2, 4):
        model = build(folder, num_threads=threads, kv_cache_dtype=kv_cache_dtype)
        # several pages of 16 tokens; a table of positions has 64
        prompt = np.random.default_rng(1).integers(3, 90, 60 if model.arch.position_table else 70).tolist()
        if turns(model, len(prompt) + 4):
            pytest.skip("its first tokens are turned by the length of the row")
        for size in (1, 7, 32):
            for chunk, shares in ((len(prompt), False), (23, True)):
                session = model.open_session()
                others = [rng.integers(3, 90, rng.integers(1, 40)).tolist() for _ in range(size - 1)]
                if shares:
                    first = session.add()
                    session.step([(first, prompt)])
                    session.release(first, keep=True)
                    row = session.add(np.array(prompt))
                    assert session.length(row) == len(prompt) - 1
                else:
                    row = session.add()
                held = session.length(row)
                rows = [session.add() for _ in others]
                company = list(zip(rows, others, strict=True))
                got = []
                for begin in range(held, len(prompt), chunk):
                    batch = [(row, prompt[begin : begin + chunk]), *company]
                    rng.shuffle(batch)
                    got = session.step(batch).logits[[number for number, _ in batch].index(row)]
                    company = [(number, [5]) for number in rows]
                after = session.step([*company, (row, [11, 12, 13])], logits="all").logits[-3:]
                model.rows.forget()
                found = np.concatenate([got[None], after])
                want = found if want is None else want
                assert np.array_equal(found, want), (threads, size, chunk)


def test_forks_share_the_past_and_part(folder, kv_cache_dtype):
    session = build(folder, kv_cache_dtype=kv_cache_dtype).open_session()
    first = session.add()
    session.step([(first, PROMPTS[2])])
    second = session.fork(first)
    a, b = session.step([(first, [5]), (second, [6])]).logits
    session.truncate(first, len(PROMPTS[2]))
    again = session.step([(first, [6])]).logits[0]
    assert np.array_equal(again, b) and not np.array_equal(a, b)
    session.release(first)
    alone = session.add()
    session.step([(alone, [*PROMPTS[2], 6])])
    assert np.array_equal(session.step([(alone, [8])]).logits, session.step([(second, [8])]).logits)


@pytest.mark.parametrize("isa", [s.name for s in engine.instruction_sets() if s.is_usable] if engine.is_built() else [])
def test_every_instruction_set_gives_the_same_bits(folder, isa):
    want = run(build(folder).open_session(), PROMPTS, 2)
    got = run(build(folder, isa=isa).open_session(), PROMPTS, 2)
    for ours, theirs in zip(got, want, strict=True):
        assert np.array_equal(ours, theirs)
