import numpy as np
import pytest
from generation_fakes import Calls, WholeRowModel, WholeRowSession, hashed_logits, hashed_model
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.generation.assisted import DraftModel, PromptLookup
from martlet.generation.backend import StepOutput
from martlet.generation.loop import Decoder
from martlet.generation.outputs import Records
from martlet.generation.rows import Request

PROMPTS = [[3, 4, 3, 4, 3], [5, 6, 7, 8, 9, 10, 11, 5, 6], [1], [3, 4, 3, 4, 3], [20, 4, 4, 4, 21]]


def requests(prompts, num_new=20, eos=(13,), end=500, **fields):
    def stop_for(num_prompt):
        def stop(ids):
            return "eos" if ids[-1] in eos else "length" if len(ids) - num_prompt >= num_new else None

        return stop

    return [
        Request(at, np.array(ids), end=end, stops=[stop_for(len(ids))], first_stream=at, **fields)
        for at, ids in enumerate(prompts)
    ]


def looping_model(vocab_size=12):
    """Says mostly what followed the last id before, so that lookups often come true, and sometimes something else."""
    hashed = hashed_logits(vocab_size, sharpness=1.0)

    def logits_of(ids):
        logits = hashed(ids)
        logits[(ids[-1] * 5 + 1) % vocab_size] += 2.2
        return logits

    return WholeRowModel(logits_of, vocab_size)


def half_right(model, share=3):
    """A draft model that agrees with `model` except after every `share`-th length."""

    def logits_of(ids):
        logits = model.logits_of(ids).copy()
        return -logits if len(ids) % share == 0 else logits

    return WholeRowModel(logits_of, model.arch.vocab_size)


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("num_sequences", [1, 2])
def test_lookup_changes_nothing(seed, num_sequences):
    model = looping_model()
    prompts = [[token % 12 for token in ids] for ids in PROMPTS]
    given_requests = requests(prompts, eos=(7,), seed=seed, num_sequences=num_sequences)
    plain = Decoder(model.open_session()).run(given_requests)
    num_steps = len(model.calls.steps)
    model.calls.steps.clear()
    assert Decoder(model.open_session(), drafter=PromptLookup(4, 2)).run(given_requests) == plain
    assert len(model.calls.steps) < num_steps
    assert model.calls.num_live == 0


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("schedule", ["constant", "heuristic"])
@pytest.mark.parametrize("share", [1, 2, 5, 1000])
def test_a_draft_model_changes_nothing(seed, schedule, share):
    model = hashed_model()
    draft = half_right(model, share)
    ban = [lambda ids, scores: np.where(np.arange(29) == len(ids) % 29, -np.inf, scores).astype(np.float32)]
    plain = Decoder(model.open_session()).run(requests(PROMPTS, seed=seed, processors=ban))
    model.calls.steps.clear()
    drafter = DraftModel(draft.open_session(), num_tokens=3, schedule=schedule)
    assert Decoder(model.open_session(), drafter=drafter).run(requests(PROMPTS, seed=seed, processors=ban)) == plain
    assert draft.calls.num_live == 0 and model.calls.num_live == 0
    longest = max(len(result.new_ids) for result in plain)
    if share == 1000:  # always right, sampled or not: the same draws
        assert len(model.calls.steps) <= 2 + longest // 4
    if share == 1:
        assert len(model.calls.steps) == longest


def test_the_schedule_follows_what_was_accepted():
    model = hashed_model()
    for share, sizes in [(1000, [4, 6, 8, 10]), (1, [4, 3, 2, 2])]:
        model.calls.steps.clear()
        drafter = DraftModel(half_right(model, share).open_session(), num_tokens=3, schedule="heuristic")
        Decoder(model.open_session(), drafter=drafter).run(requests([[1, 2]], num_new=100, eos=()))
        assert [tokens for [(_, tokens)] in model.calls.steps[1:5]] == sizes


def test_an_unsure_draft_is_short():
    model = hashed_model()
    drafter = DraftModel(model.open_session(), num_tokens=6, least_confidence=1.1)
    model.calls.steps.clear()
    main = hashed_model()
    Decoder(main.open_session(), drafter=drafter).run(requests([[1, 2]], eos=()))
    assert {tokens for [(_, tokens)] in main.calls.steps[1:]} == {2}


def test_drafts_stay_inside_the_context():
    model = hashed_model(max_length=9)
    draft = hashed_model(max_length=9)
    given_requests = requests([[1, 2]], num_new=100, eos=(), end=9)
    drafter = DraftModel(draft.open_session(), num_tokens=5)
    [result] = Decoder(model.open_session(), drafter=drafter).run(given_requests)
    assert len(result.ids) == 9 and result.reason == "context"


def test_drafting_records_the_same_steps():
    model = looping_model()
    kept = []
    for drafter in (None, PromptLookup(3)):
        records = Records(True, True, True, True)
        Decoder(model.open_session(), records, drafter).run(requests([[1, 2, 1, 2], [5]], num_new=9, eos=()))
        kept.append(records)
    for name in ("scores", "logits"):
        for step, (plain, drafted) in enumerate(zip(getattr(kept[0], name), getattr(kept[1], name), strict=True)):
            assert plain.keys() == drafted.keys() == {0, 1}, step
            assert all(np.array_equal(plain[row], drafted[row]) for row in plain)
    for name in ("hidden_states", "attentions"):
        for plain, drafted in zip(getattr(kept[0], name), getattr(kept[1], name), strict=True):
            for row in plain:
                assert all(np.array_equal(a, b) for a, b in zip(plain[row], drafted[row], strict=True))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_lookup_finds_the_latest_longest_match(ids, size, num_tokens):
    found = PromptLookup(num_tokens, size).look_up(np.array(ids)).tolist()
    for length in range(min(size, len(ids) - 1), 0, -1):
        for begin in range(len(ids) - length - 1, -1, -1):
            if ids[begin : begin + length] == ids[-length:]:
                assert found == ids[begin + length : begin + length + num_tokens]
                return
    assert found == []


@pytest.mark.parametrize("chunk", [1, 2, 4, 50])
def test_a_draft_model_reads_in_chunks(chunk):
    model, draft = hashed_model(), hashed_model()
    drafter = DraftModel(draft.open_session(), num_tokens=3, prefill_chunk_size=chunk)
    prompt = [1, 2, 3, 4, 5, 6, 7]
    results = Decoder(model.open_session(), drafter=drafter).run(requests([prompt], eos=()))
    assert results == Decoder(model.open_session()).run(requests([prompt], eos=()))
    assert max(tokens for step in draft.calls.steps for _, tokens in step) <= max(chunk, 2)
    assert len(model.calls.steps) < 30 and draft.calls.num_tokens < 40


def test_a_draft_model_with_a_small_context_stops_drafting():
    model, draft = hashed_model(), hashed_model(max_length=8)
    drafter = DraftModel(draft.open_session(), num_tokens=3, context=8)
    results = Decoder(model.open_session(), drafter=drafter).run(requests(PROMPTS, eos=()))
    assert results == Decoder(model.open_session()).run(requests(PROMPTS, eos=()))


class TurningSession(WholeRowSession):
    """All of a step's scores change once its rows are longer than 14, as with longrope."""

    def step(self, batch, **kinds):
        ends = {row: self.length(row) + len(tokens) for row, tokens in batch}
        hashed = [hashed_logits(), hashed_logits(salt=1)]
        out = []
        for row, tokens in batch:
            self.logits_of = hashed[ends[row] > 14]
            out.append(super().step([(row, tokens)], **kinds).logits)
        return StepOutput(np.concatenate(out))


@pytest.mark.parametrize("num_tokens", [1, 3, 8])
def test_no_score_depends_on_a_guess_after_it(num_tokens):
    calls = Calls()
    rows = requests(PROMPTS, eos=(), turns_over=lambda length, grown: length <= 14 < grown)
    plain = Decoder(TurningSession(None, calls, 500)).run(rows)
    drafter = DraftModel(TurningSession(None, calls, 500), num_tokens)
    assert Decoder(TurningSession(None, calls, 500), drafter=drafter).run(rows) == plain
    careless = Decoder(TurningSession(None, calls, 500), drafter=DraftModel(TurningSession(None, calls, 500), 8))
    assert careless.run(requests(PROMPTS, eos=())) != plain
