import numpy as np
import pytest
from generation_fakes import TorchModel, hashed_model

from martlet.errors import NonFiniteLogitsError
from martlet.generation.beams import BeamDecoder, BeamPlan
from martlet.generation.loop import Decoder
from martlet.generation.outputs import Records
from martlet.generation.rows import Request

PROMPTS = [[3], [5, 6, 7, 8, 9, 10, 11], [1, 2], [3], [20, 4, 4, 4, 21]]


def requests(prompts, num_new=12, eos=(), **fields):
    def stop_for(num_prompt):
        def stop(ids):
            return "eos" if ids[-1] in eos else "length" if len(ids) - num_prompt >= num_new else None

        return stop

    fields |= {"end": 500, "max_new_tokens": num_new, "num_eos": len(eos)}
    return [
        Request(at, np.array(ids), stops=[stop_for(len(ids))], first_stream=at, **fields)
        for at, ids in enumerate(prompts)
    ]


def search(model, prompts, plan, num_new=12, eos=(), records=None, **fields):
    chunk = fields.pop("chunk", None)
    decoder = BeamDecoder(model.open_session(), plan, records or Records(), prefill_chunk_size=chunk)
    return decoder.run(requests(prompts, num_new, eos, **fields))


def hf_prompts(seed, count=1, length=6):
    return np.random.default_rng(seed).integers(3, 61, (count, length))


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -0.7])
@pytest.mark.parametrize("num_beams", [2, 5])
def test_beams_are_hugging_faces(hf_llama, early_stopping, length_penalty, num_beams):
    torch = pytest.importorskip("torch")
    eos = [2, *range(20, 32)]  # many, so that beams end at many lengths
    plan = BeamPlan(num_beams, num_beams, length_penalty, early_stopping)
    for seed in range(3):
        prompt = hf_prompts(seed)
        expected = hf_llama.generate(
            torch.from_numpy(prompt),
            attention_mask=torch.ones(1, 6, dtype=torch.long),
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=10,
            do_sample=False,
            early_stopping=early_stopping,
            length_penalty=length_penalty,
            eos_token_id=eos,
            pad_token_id=1,  # 0 would be taken for "none" there
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        )
        records = Records(keeps_scores=True, keeps_logits=True)
        results = search(TorchModel(hf_llama), prompt.tolist(), plan, 10, eos, records)
        width = expected.sequences.shape[1]
        padded = [result.ids + [1] * (width - len(result.ids)) for result in results]
        assert padded == expected.sequences.tolist()
        assert np.allclose([result.score for result in results], expected.sequences_scores, atol=1e-4)
        steps = expected.beam_indices.shape[1]
        assert [result.beam_indices + [-1] * (steps - len(result.beam_indices)) for result in results] == (
            expected.beam_indices.tolist()
        )
        for ours, theirs in ((records.scores, expected.scores), (records.logits, expected.logits)):
            assert len(ours) == len(theirs)
            for kept, tensor in zip(ours, theirs, strict=True):
                stacked = np.stack([kept[row] for row in range(num_beams)])
                # beams that ended everywhere run on as equals at -1e9: only their order is free
                assert np.allclose(stacked, tensor.numpy(), atol=1e-3)


def test_prompts_do_not_meet_in_beams_or_chunks():
    plan = BeamPlan(4, 3)
    model = hashed_model()
    for fields in ({}, {"seed": 8}):
        together = search(model, PROMPTS, plan, eos=(13, 14, 15), **fields)
        assert search(model, PROMPTS, plan, eos=(13, 14, 15), chunk=2, **fields) == together
        for at, request in enumerate(requests(PROMPTS, eos=(13, 14, 15), **fields)):
            alone = BeamDecoder(model.open_session(), plan).run([request])
            assert alone == together[3 * at : 3 * at + 3]
    assert model.calls.num_live == 0


def test_one_beam_is_greedy():
    model = hashed_model()
    greedy = Decoder(model.open_session()).run(requests(PROMPTS, eos=(13,)))
    assert [result.new_ids for result in search(model, PROMPTS, BeamPlan(1), eos=(13,))] == [
        result.new_ids for result in greedy
    ]


def test_enough_beams_find_the_best_sequence():
    vocab, length = 5, 3
    model = hashed_model(vocab)

    def log_probability(ids):
        total = 0.0
        for at in range(1, len(ids)):
            logits = model.logits_of(ids[:at]).astype(np.float64)
            total += logits[ids[at]] - np.log(np.exp(logits).sum())
        return total

    everything = [[2, a, b, c] for a in range(vocab) for b in range(vocab) for c in range(vocab)]
    best = sorted(everything, key=log_probability, reverse=True)[:4]
    results = search(model, [[2]], BeamPlan(25, 4, length_penalty=0.0), num_new=length)
    assert [result.ids for result in results] == best
    assert np.allclose([result.score for result in results], [log_probability(ids) for ids in best], atol=1e-4)


def test_sampled_beams_score_what_they_chose():
    model = hashed_model()
    records = Records(keeps_scores=True)
    results = search(model, PROMPTS, BeamPlan(3, 3), eos=(13,), seed=2, records=records)
    for result in results:
        total = sum(
            records.scores[step][beam][token]
            for step, (beam, token) in enumerate(zip(result.beam_indices, result.new_ids, strict=True))
        )
        assert np.isclose(total / len(result.new_ids), result.score, atol=1e-4)
    other = search(model, PROMPTS, BeamPlan(3, 3), eos=(13,), seed=3)
    assert [result.ids for result in other] != [result.ids for result in results]
    assert results == search(model, PROMPTS, BeamPlan(3, 3), eos=(13,), seed=2)


def test_sampled_beams_follow_the_law_of_the_first_token():
    model = hashed_model(4)
    scores = model.logits_of([1]).astype(np.float64)
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    firsts = [
        search(model, [[1]], BeamPlan(2, 2, length_penalty=0.0), num_new=1, seed=seed)[0].new_ids[0]
        for seed in range(600)
    ]
    # the better of two drawn without replacement
    pairs = {(a, b): shares[a] * shares[b] / (1 - shares[a]) for a in range(4) for b in range(4) if a != b}
    law = np.zeros(4)
    for (a, b), share in pairs.items():
        law[a if shares[a] > shares[b] else b] += share
    assert np.abs(np.bincount(firsts, minlength=4) / 600 - law).max() < 0.08


def test_processors_see_log_probabilities_and_each_beams_ids():
    model = hashed_model()
    seen = set()

    def watch(ids, scores):
        assert np.isclose(np.exp(scores.astype(np.float64)).sum(), 1.0, atol=1e-4)
        seen.add(tuple(ids.tolist()))
        return scores

    results = search(model, [[1, 2]], BeamPlan(3, 3), num_new=4, processors=[watch])
    assert {tuple(result.ids[:-1]) for result in results} <= seen


def test_cancelling_gives_the_best_so_far():
    model = hashed_model()
    asked = iter([False] * 5 + [True] * 10)
    decoder = BeamDecoder(model.open_session(), BeamPlan(3, 2), is_cancelled=lambda: next(asked))
    results = decoder.run(requests(PROMPTS))
    assert [len(result.new_ids) for result in results] == [2] * 10
    assert {result.reason for result in results} == {"cancelled"}
    assert model.calls.num_live == 0


def only(allowed):
    """Lets a row end in `allowed(ids)` alone."""

    def process(ids, scores):
        kept = np.full_like(scores, -np.inf)
        kept[allowed(ids)] = scores[allowed(ids)]
        return kept

    return process


def test_a_dead_beam_is_no_error_while_another_lives():
    model = hashed_model()
    roads = {3: [4, 5], 4: [], 5: [6, 7], 6: [8], 7: [8], 8: [9, 10]}
    process = only(lambda ids: roads[int(ids[-1])])
    results = search(model, [[3]], BeamPlan(2, 2), num_new=4, processors=[process])
    assert [result.ids[:2] for result in results] == [[3, 5]] * 2
    assert all(b in roads[a] for result in results for a, b in zip(result.ids, result.ids[1:], strict=False))
    with pytest.raises(NonFiniteLogitsError, match=r"row 0, position 2: .* left no token"):
        search(model, [[3]], BeamPlan(2, 2), num_new=4, processors=[only(lambda ids: [] if len(ids) > 1 else [4, 5])])


def test_there_are_always_as_many_results_as_asked_for():
    model = hashed_model()
    for num_new in (1, 2, 5):
        results = search(model, [[3]], BeamPlan(4, 4), num_new=num_new, eos=(9,), processors=[only(lambda ids: [9])])
        assert len(results) == 4 and results[0].ids == [3, 9]
