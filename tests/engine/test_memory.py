"""Keys and values in a limited memory: rows wait, are read again, share beginnings; the ids do not change."""

import threading

import numpy as np
import pytest
import torch
import transformers

import martlet
from martlet import engine
from martlet.errors import ArgumentError, CacheMemoryError, UnsupportedError
from martlet.generation.generate import generate_rows, resolve_config

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

PAGE = 2 * 2 * 16 * 2 * 4 * 16  # layers, heads, width, k and v, bytes of float32, positions
rng = np.random.default_rng(0)
PROMPTS = [rng.integers(1, 96, size).tolist() for size in (3, 40, 17, 90, 1, 33, 64, 5)]
load = martlet.AutoModelForCausalLM.from_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=600,
    )
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(path)
    return path


@pytest.fixture
def model(folder):
    return load(folder, backend="native")


def run(model, prompts=PROMPTS, **fields):
    keywords = {"max_new_tokens": 40, "do_sample": True, "seed": 3, "eos_token_id": 7, "pad_token_id": 0}
    return model.generate(prompts, **{**keywords, **fields})


@pytest.mark.parametrize("num_pages", [9, 10, 14, 25, 1000])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_return_sequences": 3, "top_k": 20, "top_p": 0.9},
        {"do_sample": False, "repetition_penalty": 1.3},
        {"do_sample": False, "no_repeat_ngram_size": 2},
        {"guidance_scale": 1.5, "max_new_tokens": 20},
        {"do_sample": False, "prompt_lookup_num_tokens": 3},
    ],
)
def test_the_ids_are_those_without_a_limit(model, num_pages, fields):
    assert run(model, kv_cache_bytes=num_pages * PAGE, **fields) == run(model, **fields)


def test_the_limit_of_a_model_is_for_all_its_sessions(folder, model):
    limited = load(folder, backend="native", kv_cache_bytes=12 * PAGE)
    want = [run(model, seed=seed) for seed in range(4)]
    got = [None] * 4

    def go(seed):
        got[seed] = run(limited, seed=seed)

    threads = [threading.Thread(target=go, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want
    assert limited.engine.rows.engine.pages_held <= 12
    limited.engine.rows.forget()
    assert limited.engine.rows.engine.pages_held == 0


def test_a_row_too_large(folder, model):
    with pytest.raises(CacheMemoryError, match="no room for one of 91 tokens"):
        run(model, kv_cache_bytes=5 * PAGE)
    with pytest.raises(CacheMemoryError, match="Pass a larger kv_cache_bytes"):
        run(model, PROMPTS[:1], kv_cache_bytes=2 * PAGE, min_new_tokens=40)
    with pytest.raises(ArgumentError, match=f"at least {PAGE}: the keys and values of 16 tokens; found 10"):
        load(folder, backend="native", kv_cache_bytes=10)
    for wrong in (0, -1, PAGE - 1, True, 1e9, "1GB"):
        with pytest.raises(ArgumentError, match="kv_cache_bytes"):
            run(model, kv_cache_bytes=wrong)
    with pytest.raises(UnsupportedError, match="is for the native engine"):
        run(load(folder, backend="torch"), kv_cache_bytes=10**9)


@pytest.mark.parametrize("num_pages", [40, 60, 1000])
@pytest.mark.parametrize("fields", [{}, {"guidance_scale": 1.5}, {"do_sample": True}])
def test_beams_wait_for_room(model, num_pages, fields):
    fields = {"num_beams": 3, "do_sample": False, "max_new_tokens": 20, "num_return_sequences": 2, **fields}
    want = run(model, **fields)
    assert run(model, kv_cache_bytes=num_pages * PAGE, **fields) == want
    with pytest.raises(CacheMemoryError, match="memory for keys and values is exhausted"):
        run(model, kv_cache_bytes=4 * PAGE, **fields)


def test_a_draft_model_without_memory_drafts_nothing(folder, model):
    draft = load(folder, backend="native", kv_cache_bytes=6 * PAGE)
    fields = {"do_sample": False, "max_new_tokens": 30}
    assert run(model, assistant_model=draft, **fields) == run(model, **fields)


class Fed:
    """Counts the tokens that sessions of a model feed."""

    def __init__(self, monkeypatch):
        self.count = 0
        plain = engine.EngineSession.step

        def step(session, batch, **keywords):
            self.count += sum(len(tokens) for _, tokens in batch)
            return plain(session, batch, **keywords)

        monkeypatch.setattr(engine.EngineSession, "step", step)

    def take(self):
        count, self.count = self.count, 0
        return count


def test_the_next_turn_reads_only_what_is_new(model, monkeypatch):
    fed = Fed(monkeypatch)
    first = run(model, [PROMPTS[3]], do_sample=False, eos_token_id=None)[0]
    assert fed.take() == 90 and len(first) == 130
    second = [*first, 5, 6, 7]
    answer = run(model, [second], do_sample=False)
    assert fed.take() == 133 - 129  # of the first turn all but its last token, which was not fed
    model.engine.rows.forget()
    assert run(model, [second], do_sample=False) == answer and fed.take() == 133


def test_common_beginnings_are_read_once(model, monkeypatch):
    system = PROMPTS[3]
    prompts = [[*system, 1, 2, 3], [*system, 4], PROMPTS[1], [*system, 1, 2, 9], [*system, 1, 2, 3]]
    fed = Fed(monkeypatch)
    together = run(model, prompts, seed=[0] * 5)
    assert fed.take() == 93 + 40 + 1 + 1 + 1
    for prompt, ids in zip(prompts, together, strict=True):
        model.engine.rows.forget()
        assert run(model, [prompt], seed=[0])[0] == ids


def test_what_is_kept_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(engine.rows, "KEPT_BYTES", 8 * PAGE)
    model = load(folder, backend="native")
    for prompt in PROMPTS:
        run(model, [prompt])
        assert model.engine.rows.engine.pages_held <= 8
    monkeypatch.setattr(engine.rows, "KEPT_BYTES", 1000 * PAGE)
    monkeypatch.setattr(engine.rows, "KEPT_ROWS", 3)
    model = load(folder, backend="native")
    for at in range(9):
        run(model, [[at + 1] * 20], max_new_tokens=1)
    assert model.engine.rows.engine.pages_held == 3 * 2


def test_logits_are_the_same_shared_or_recomputed(model):
    prompt = PROMPTS[3]
    session, fresh = model.open_session(), model.open_session(kv_cache_bytes=100 * PAGE)
    row = session.add()
    session.step([(row, prompt)])
    session.release(row, keep=True)
    for length in (17, 32, 33, 90):
        ids = np.array([*prompt[:length], 5, 6])
        again = session.add(ids)
        held = session.length(again)
        assert held == min(length, 90)
        alone = fresh.add()
        want = fresh.step([(alone, ids.tolist())], logits="all").logits
        assert np.array_equal(session.step([(again, ids[held:].tolist())], logits="all").logits, want[held:])


def test_a_row_that_was_kept_is_not_changed_by_its_heirs(model):
    first = run(model, [PROMPTS[3]], do_sample=False)
    for last in range(20):
        run(model, [[*PROMPTS[3][:40], last]], do_sample=False)
    assert run(model, [PROMPTS[3]], do_sample=False) == first


def test_log_probabilities_on_both_backends(folder, model):
    plain = load(folder, backend="torch")
    config = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    ours, theirs = (
        generate_rows(one, PROMPTS[:3], resolve_config(one, None, config), num_logprobs=2) for one in (model, plain)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.new_ids == other.new_ids and len(mine.logprobs) == 6
        for (one, likely), (two, likely_too) in zip(mine.logprobs, other.logprobs, strict=True):
            assert one == pytest.approx(two, abs=1e-4) and likely[0][0] == likely_too[0][0]
            assert likely[0][1] == one  # greedy takes the likeliest
