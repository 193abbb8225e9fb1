import numpy as np
import pytest
from generation_fakes import WholeRowModel, hashed_logits, hashed_model, plain_greedy
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.errors import NonFiniteLogitsError
from martlet.generation.assisted import PromptLookup
from martlet.generation.loop import Decoder
from martlet.generation.outputs import Records
from martlet.generation.rows import Request

PROMPTS = [[3], [5, 6, 7, 8, 9, 10, 11], [1, 2], [3], [20, 4, 4, 4, 21]]


def stop_after(num_new, num_prompt, eos=()):
    def stop(ids):
        if ids[-1] in eos:
            return "eos"
        return "length" if len(ids) - num_prompt >= num_new else None

    return stop


def requests(prompts, num_new=12, eos=(), **fields):
    return [
        Request(at, np.array(ids), end=500, stops=[stop_after(num_new, len(ids), eos)], first_stream=at, **fields)
        for at, ids in enumerate(prompts)
    ]


def test_greedy_is_the_plain_loop_for_every_row():
    model = hashed_model()
    results = Decoder(model.open_session()).run(requests(PROMPTS, eos=(13, 14)))
    expected = [plain_greedy(model.logits_of, ids, 12, (13, 14)) for ids in PROMPTS]
    assert [result.new_ids for result in results] == expected
    assert [result.prompt_ids for result in results] == PROMPTS
    assert {result.reason for result in results} == {"eos", "length"}
    assert [result.reason == "eos" for result in results] == [ids[-1] in (13, 14) for ids in expected]
    assert model.calls.num_live == 0


def test_finished_rows_leave_and_each_token_is_read_once():
    model = hashed_model()
    results = Decoder(model.open_session()).run(requests(PROMPTS, eos=(13, 14)))
    fed = sum(len(result.ids) - 1 for result in results)  # the last token is never fed
    assert model.calls.num_tokens == fed


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_results_do_not_depend_on_chunks(chunk):
    model = hashed_model()
    whole = Decoder(model.open_session()).run(requests(PROMPTS))
    assert Decoder(model.open_session(), prefill_chunk_size=chunk).run(requests(PROMPTS)) == whole


def test_sampled_rows_do_not_depend_on_other_rows():
    model = hashed_model()
    together = Decoder(model.open_session()).run(requests(PROMPTS, seed=5))
    for at, request in enumerate(requests(PROMPTS, seed=5)):
        [alone] = Decoder(model.open_session()).run([request])
        assert alone == together[at]
    assert together[0].new_ids != together[3].new_ids  # same prompt, another stream


def test_sequences_of_one_prompt_share_its_reading():
    model = hashed_model()
    [first, *others] = Decoder(model.open_session()).run(requests([[1, 2, 3, 4]], seed=5, num_sequences=4))
    assert len(others) == 3 and len({tuple(result.new_ids) for result in [first, *others]}) == 4
    assert model.calls.steps[0] == [(1, 4)]
    assert model.calls.num_tokens == 4 + 4 * 11
    model = hashed_model()
    [single] = Decoder(model.open_session()).run(
        [Request(0, np.array([1, 2, 3, 4]), end=500, stops=[stop_after(12, 4)], seed=5, first_stream=2)]
    )
    assert single.new_ids == others[1].new_ids


def test_continuing_a_sample_is_the_same_as_sampling_on():
    model = hashed_model()
    [whole] = Decoder(model.open_session()).run(requests([[1, 2]], num_new=10, seed=3))
    [half] = Decoder(model.open_session()).run(requests([[1, 2]], num_new=4, seed=3))
    [rest] = Decoder(model.open_session()).run(requests([half.ids], num_new=6, seed=3))
    assert rest.ids == whole.ids


def test_processors_see_the_whole_row_and_may_write():
    model = hashed_model()
    seen = []

    def ban_even(ids, scores):
        seen.append(ids.tolist())
        scores[::2] = -np.inf
        return scores

    [result] = Decoder(model.open_session()).run(requests([[1, 2]], num_new=3, processors=[ban_even]))
    assert all(token % 2 for token in result.new_ids)
    assert seen == [result.ids[:length] for length in (2, 3, 4)]


def test_the_context_ends_a_row():
    model = hashed_model(max_length=6)
    request = Request(0, np.array([1, 2]), end=6, stops=[stop_after(50, 2)])
    [result] = Decoder(model.open_session()).run([request])
    assert len(result.ids) == 6 and result.reason == "context"


def test_cancelling_keeps_what_is_there():
    model = hashed_model()
    asked = iter([False, False, False, True])  # once more before the prompts are read
    results = Decoder(model.open_session(), is_cancelled=lambda: next(asked)).run(requests(PROMPTS))
    assert [len(result.new_ids) for result in results] == [3] * 5
    assert {result.reason for result in results} == {"cancelled"}
    assert model.calls.num_live == 0


def test_tokens_are_told_as_they_come():
    model = hashed_model()
    told = {}
    results = Decoder(model.open_session(), on_token=lambda row, token: told.setdefault(row, []).append(token)).run(
        requests(PROMPTS, eos=(13,))
    )
    assert told == {at: result.new_ids for at, result in enumerate(results)}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_model_is_named(bad):
    hashed = hashed_logits()

    def logits_of(ids):
        logits = hashed(ids)
        if ids[:2] == [5, 6] and len(ids) == 9:
            logits[3] = bad
        return logits

    with pytest.raises(NonFiniteLogitsError, match="row 1, position 9: the model gave logits with NaN or infinity"):
        Decoder(WholeRowModel(logits_of).open_session()).run(requests(PROMPTS))


def test_processors_that_leave_nothing_in_place_are_named():
    def ban_all(ids, scores):
        scores[:] = -np.inf
        return scores

    with pytest.raises(NonFiniteLogitsError, match="processors left no token"):
        Decoder(hashed_model().open_session()).run(requests([[1]], processors=[ban_all]))


def test_processors_that_leave_nothing_are_named():
    with pytest.raises(NonFiniteLogitsError, match=r"processors left no token.*highest score of -inf"):
        Decoder(hashed_model().open_session()).run(
            requests([[1]], processors=[lambda ids, scores: np.full_like(scores, -np.inf)])
        )


def test_repaired_logits_are_no_error():
    def logits_of(ids):
        return np.array([np.nan, 1.0, np.inf, 0.0], np.float32)

    model = WholeRowModel(logits_of, vocab_size=4)
    repair = lambda ids, scores: np.nan_to_num(scores, nan=0.0, posinf=9.0)  # noqa: E731
    [result] = Decoder(model.open_session()).run(requests([[1]], num_new=2, processors=[repair], repairs_logits=True))
    assert result.new_ids == [2, 2]


def test_records_of_every_step():
    model = hashed_model()
    double = lambda ids, scores: scores * 2  # noqa: E731
    for chunk in (None, 2):
        records = Records(True, True, True, True)
        results = Decoder(model.open_session(), records, prefill_chunk_size=chunk).run(
            requests(PROMPTS, num_new=3, processors=[double])
        )
        assert [len(kept) for kept in (records.scores, records.logits, records.hidden_states, records.attentions)] == [
            3
        ] * 4
        for row, result in enumerate(results):
            for step in range(3):
                ids = result.ids[: len(PROMPTS[row]) + step]
                logits = model.logits_of(ids)
                assert np.array_equal(records.logits[step][row], logits)
                assert np.array_equal(records.scores[step][row], logits * 2)
                begin = 0 if step == 0 else len(ids) - 1
                positions = records.hidden_states[step][row][0][:, :2]
                assert positions.tolist() == [[at, ids[at]] for at in range(begin, len(ids))]
                attended = records.attentions[step][row][0]
                assert attended.shape == (2, len(ids) - begin, len(ids))
                assert np.array_equal(attended[0], np.tril(np.ones((len(ids), len(ids))))[begin:])


@given(
    prompts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=5),
    chunk=st.none() | st.integers(1, 4),
    seed=st.none() | st.integers(0, 2**70),
    num_sequences=st.integers(1, 3),
    lookup=st.integers(0, 4),
    eos=st.sets(st.integers(0, 6), max_size=2),
)
@settings(max_examples=150, deadline=None)
def test_a_row_is_always_what_it_is_alone(prompts, chunk, seed, num_sequences, lookup, eos):
    model = WholeRowModel(hashed_logits(7, sharpness=2.0), vocab_size=7)
    fields = {"num_new": 9, "eos": tuple(eos), "seed": seed, "num_sequences": num_sequences}
    drafter = PromptLookup(lookup, 2) if lookup else None
    together = Decoder(model.open_session(), drafter=drafter, prefill_chunk_size=chunk).run(requests(prompts, **fields))
    assert model.calls.num_live == 0
    alone = [Decoder(model.open_session()).run([request]) for request in requests(prompts, **fields)]
    assert together == [result for results in alone for result in results]
    if seed is None:
        expected = [plain_greedy(model.logits_of, ids, 9, tuple(eos)) for ids in prompts for _ in range(num_sequences)]
        assert [result.new_ids for result in together] == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_states_may_be_tensors(dtype, chunk):
    torch = pytest.importorskip("torch")
    model = hashed_model()

    class Session(type(model.open_session())):
        def step(self, batch, **kinds):
            output = super().step(batch, **kinds)
            for name in ("hidden_states", "attentions"):
                rows = [[torch.from_numpy(x).to(getattr(torch, dtype)) for x in row] for row in getattr(output, name)]
                setattr(output, name, rows)
            return output

    kept = []
    for kind in (type(model.open_session()), Session):
        records = Records(keeps_hidden_states=True, keeps_attentions=True)
        session = kind(model.logits_of, model.calls, 500)
        Decoder(session, records, prefill_chunk_size=chunk).run(requests(PROMPTS, num_new=3))
        kept.append(records)
    for name in ("hidden_states", "attentions"):
        for arrays, tensors in zip(getattr(kept[0], name), getattr(kept[1], name), strict=True):
            for row in arrays:
                assert all(np.array_equal(a, b) for a, b in zip(arrays[row], tensors[row], strict=True))
