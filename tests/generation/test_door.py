import logging
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from generation_fakes import TorchModel, WholeRowModel, hashed_logits, hashed_model, plain_greedy

from martlet.errors import (
    ArgumentError,
    EmptyPromptError,
    NonFiniteLogitsError,
    PromptTooLongError,
    TokenRangeError,
    UnsupportedError,
)
from martlet.generation import door

for room in ("config", "processors", "stopping"):
    pytest.importorskip(f"martlet.generation.{room}")
from martlet.generation.config import GenerationConfig  # noqa: E402
from martlet.generation.generate import generate, generate_rows  # noqa: E402
from martlet.generation.outputs import GenerateOutput, Records, compute_transition_scores  # noqa: E402
from martlet.generation.settings import resolve_config  # noqa: E402

torch = pytest.importorskip("torch")
PROMPTS = [[3], [5, 6, 7, 8, 9, 10, 11], [1, 2], [3], [20, 4, 4, 4, 21]]


def model_with(logits_of=None, vocab_size=29, max_length=512, **fields):
    model = WholeRowModel(logits_of or hashed_logits(vocab_size), vocab_size, max_length)
    model.generation_config = GenerationConfig(**fields)
    return model


def padded(rows, side, pad=0, width=9):
    ids, mask = np.full((len(rows), width), pad), np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        if side == "middle":
            at = slice(1, 1 + len(row))
        ids[place, at], mask[place, at] = row, 1
    return ids, mask


@pytest.fixture
def tiny(hf_llama):
    model = TorchModel(hf_llama)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    return model


# The ways in and out


@pytest.mark.parametrize("side", ["left", "right", "middle"])
@pytest.mark.parametrize("kind", ["torch", "numpy", "lists"])
def test_each_row_equals_that_row_alone(side, kind):
    model = model_with(eos_token_id=13, pad_token_id=0)
    ids, mask = padded(PROMPTS, side)
    given, given_mask = ids, mask
    if kind == "torch":
        given, given_mask = torch.from_numpy(ids), torch.from_numpy(mask)
    if kind == "lists":
        given, given_mask = ids.tolist(), mask.tolist()
    for masks in ({"attention_mask": given_mask}, {}):
        result = generate(model, given, max_new_tokens=8, **masks)
        expected = [plain_greedy(model.logits_of, row, 8, (13,)) for row in PROMPTS]
        if kind == "lists":
            assert result == [ids[at].tolist() + new for at, new in enumerate(expected)]
            continue
        assert isinstance(result, torch.Tensor if kind == "torch" else np.ndarray)
        assert result.dtype == (torch.int64 if kind == "torch" else np.int64)
        rows = result.tolist()
        longest = max(map(len, expected))
        assert rows == [ids[at].tolist() + new + [0] * (longest - len(new)) for at, new in enumerate(expected)]


def test_ragged_lists_come_back_ragged():
    model = model_with(eos_token_id=13)
    result = generate(model, PROMPTS, max_new_tokens=5)
    assert result == [row + plain_greedy(model.logits_of, row, 5, (13,)) for row in PROMPTS]
    assert generate(model, [1, 2], max_new_tokens=5) == [result[2]]
    assert generate(model, input_ids=[1, 2], max_new_tokens=5) == [result[2]]
    assert generate(model, np.array([1, 2]), max_new_tokens=5).tolist() == [result[2]]


def test_pad_ids_are_kept_where_they_may_be_meant():
    same = model_with(eos_token_id=0, pad_token_id=0)
    row = [0, 0, 5, 0]
    assert generate(same, [row], max_new_tokens=3) == [row + plain_greedy(same.logits_of, row, 3, (0,))]
    inside = model_with(eos_token_id=13, pad_token_id=0)
    [result] = generate(inside, [[0, 5, 0, 6]], max_new_tokens=3)
    assert result[4:] == plain_greedy(inside.logits_of, [5, 0, 6], 3, (13,))


def test_without_pad_or_input():
    model = model_with(eos_token_id=[13, 14], bos_token_id=7)
    expected = [plain_greedy(model.logits_of, [first], 9, (13, 14)) for first in range(20)]
    longest = max(map(len, expected))
    assert min(map(len, expected)) < longest
    result = generate(model, np.arange(20)[:, None], max_new_tokens=9)
    assert result[:, 1:].tolist() == [new + [13] * (longest - len(new)) for new in expected]
    assert generate(model, max_new_tokens=4).tolist() == [[7, *plain_greedy(model.logits_of, [7], 4, (13, 14))]]
    with pytest.raises(EmptyPromptError, match=r"generate: needs input_ids.*no bos_token_id"):
        generate(model_with(), max_new_tokens=4)


def test_length_defaults_and_max_length():
    model = model_with()
    assert len(generate(model, [[1, 2]])[0]) == 22
    assert len(generate(model, [[1, 2]], max_length=6)[0]) == 6
    with pytest.raises(ArgumentError, match=r"prompt row 0: max_length \(2\) counts the prompt.*its 2 tokens"):
        generate(model, [[1, 2]], max_length=2)


def test_one_value_a_row():
    model = model_with(pad_token_id=0)
    result = generate(model, PROMPTS, max_new_tokens=[1, 2, 3, 4, 5])
    assert [len(row) - len(prompt) for row, prompt in zip(result, PROMPTS, strict=True)] == [1, 2, 3, 4, 5]
    seeds, heat = [5, 6, 5, 5, 9], [0.5, 1.0, 2.0, 0.5, 1.5]
    together = generate(model, PROMPTS, max_new_tokens=6, do_sample=True, seed=seeds, temperature=heat)
    assert together[0] == together[3]  # a seed of its own: its place does not matter
    for at, prompt in enumerate(PROMPTS):
        alone = generate(model, [prompt], max_new_tokens=6, do_sample=True, seed=seeds[at], temperature=heat[at])
        assert alone == [together[at]]


def test_ends_of_each_row():
    model = model_with(pad_token_id=0, eos_token_id=-1)
    ends = [[13], [14, 15], [-1], list(range(10, 29)), []]
    for fields in ({}, {"num_beams": 2}):
        together = generate(model, PROMPTS, max_new_tokens=9, eos_token_id=ends, **fields)
        for at, prompt in enumerate(PROMPTS):
            assert generate(model, [prompt], max_new_tokens=9, eos_token_id=ends[at], **fields) == [together[at]]
    assert len(together[2]) == 2 + 9


def test_seeds():
    from martlet.generation.sampling import set_seed

    model = model_with()
    sample = {"max_new_tokens": 6, "do_sample": True}
    assert generate(model, PROMPTS, seed=3, **sample) == generate(model, PROMPTS, seed=3, **sample)
    assert generate(model, PROMPTS, seed=3, **sample) != generate(model, PROMPTS, seed=4, **sample)
    set_seed(1)
    first, second = generate(model, PROMPTS, **sample), generate(model, PROMPTS, **sample)
    set_seed(1)
    assert generate(model, PROMPTS, **sample) == first != second
    many = generate(model, [[1, 2]], num_return_sequences=5, seed=3, **sample)
    assert len({tuple(row) for row in many}) == 5
    as_rows = generate(model, [[1, 2]] * 5, seed=3, **sample)
    assert many == as_rows


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_chunked_prefill(chunk):
    model = model_with()
    plain = generate(model, PROMPTS, max_new_tokens=5)
    assert generate(model, PROMPTS, max_new_tokens=5, prefill_chunk_size=chunk) == plain


# Against Hugging Face


def batch_of(count, width, seed=0):
    rng = np.random.default_rng(seed)
    ids, mask = rng.integers(3, 61, (count, width)), np.ones((count, width), np.int64)
    for place in range(1, count):
        ids[place, :place], mask[place, :place] = 0, 0
    return torch.from_numpy(ids), torch.from_numpy(mask)


def test_greedy_and_its_records_are_hugging_faces(hf_llama, tiny):
    ids, mask = batch_of(3, 7)
    wanted = {
        "max_new_tokens": 6,
        "do_sample": False,
        "repetition_penalty": 1.3,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
        "output_attentions": True,
    }
    theirs = hf_llama.generate(ids, attention_mask=mask, **wanted)
    ours = generate(tiny, ids, attention_mask=mask, **wanted)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert ours.finish_reasons == ["length"] * 3 and ours.num_new_tokens == [6] * 3
    transitions = compute_transition_scores(ours.sequences, ours.scores, normalize_logits=True)
    expected = hf_llama.compute_transition_scores(theirs.sequences, theirs.scores, normalize_logits=True)
    torch.testing.assert_close(transitions, expected, atol=2e-4, rtol=1e-4)
    for name in ("scores", "logits"):
        assert len(ours[name]) == 6
        for step in range(6):
            torch.testing.assert_close(ours[name][step], theirs[name][step], atol=2e-4, rtol=1e-4)
    for name in ("hidden_states", "attentions"):
        assert len(ours[name]) == 6
        for step in range(6):
            for layer, tensor in zip(ours[name][step], theirs[name][step], strict=True):
                assert layer.shape == tensor.shape
                for row in range(3):
                    real = slice(row, None) if step == 0 else slice(None)
                    at = (row, real) if name == "hidden_states" else (row, slice(None), real, slice(row, None))
                    torch.testing.assert_close(layer[at], tensor[at], atol=2e-4, rtol=1e-3)


def test_ends_and_padding_are_hugging_faces(hf_llama, tiny):
    ids, mask = batch_of(6, 7, seed=4)
    ends = list(range(30, 42))
    theirs = hf_llama.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=ends)
    ours = generate(tiny, ids, max_new_tokens=12, eos_token_id=ends)
    assert torch.equal(ours, theirs)


def test_guidance_is_hugging_faces(hf_llama, tiny):
    ids, _ = batch_of(1, 7)
    negative = torch.tensor([[9, 8, 7]])
    for fields in ({}, {"negative_prompt_ids": negative}):
        wanted = {"guidance_scale": 1.8, "max_new_tokens": 8, "do_sample": False, **fields}
        assert torch.equal(generate(tiny, ids, **wanted), hf_llama.generate(ids, **wanted))
    rows, mask = batch_of(3, 7)
    together = generate(tiny, rows, attention_mask=mask, guidance_scale=1.8, max_new_tokens=8)
    beams = generate(tiny, rows, attention_mask=mask, guidance_scale=1.8, max_new_tokens=8, num_beams=2)
    drafted = generate(
        tiny, rows, attention_mask=mask, guidance_scale=1.8, max_new_tokens=8, prompt_lookup_num_tokens=3
    )
    assert torch.equal(together, drafted)
    for at in range(3):
        assert torch.equal(together[at], generate(tiny, rows[at, at:], guidance_scale=1.8, max_new_tokens=8)[0]) or at
        alone = generate(tiny, rows[at : at + 1, at:], guidance_scale=1.8, max_new_tokens=8)
        assert alone[0, 7 - at :].tolist() == together[at, 7:].tolist()
        alone = generate(tiny, rows[at : at + 1, at:], guidance_scale=1.8, max_new_tokens=8, num_beams=2)
        assert alone[0, 7 - at :].tolist() == beams[at, 7:].tolist()


@pytest.mark.parametrize("fields", [{}, {"early_stopping": True}, {"length_penalty": 0.3, "num_return_sequences": 2}])
def test_batched_beams_are_hugging_faces(hf_llama, tiny, fields):
    ids, mask = batch_of(3, 7, seed=2)
    wanted = {
        "num_beams": 3,
        "max_new_tokens": 7,
        "do_sample": False,
        "eos_token_id": list(range(30, 42)),
        "pad_token_id": 1,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
        "output_attentions": True,
        **fields,
    }
    theirs = hf_llama.generate(ids, attention_mask=mask, **wanted)
    ours = generate(tiny, ids, attention_mask=mask, **wanted)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(ours.beam_indices, theirs.beam_indices.long())
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.scores[0], theirs.scores[0], atol=2e-4, rtol=1e-3)
    assert [tensor.shape for tensor in ours.logits] == [tensor.shape for tensor in theirs.logits][: len(ours.logits)]
    assert [layer.shape for layer in ours.attentions[1]] == [layer.shape for layer in theirs.attentions[1]]
    assert [layer.shape for layer in ours.hidden_states[0]] == [layer.shape for layer in theirs.hidden_states[0]]
    assert set(ours.finish_reasons) <= {"eos", "length"}
    transitions = compute_transition_scores(ours.sequences, ours.scores, ours.beam_indices)
    expected = hf_llama.compute_transition_scores(theirs.sequences, theirs.scores, theirs.beam_indices)
    torch.testing.assert_close(transitions, expected, atol=1e-4, rtol=1e-4)


def test_assisted_is_plain_and_hugging_faces(hf_llama, tiny):
    ids, mask = batch_of(3, 7, seed=3)
    plain = generate(tiny, ids, attention_mask=mask, max_new_tokens=20)
    for fields in ({"assistant_model": tiny, "num_assistant_tokens": 4}, {"prompt_lookup_num_tokens": 5}):
        assert torch.equal(generate(tiny, ids, attention_mask=mask, max_new_tokens=20, **fields), plain)
    theirs = hf_llama.generate(ids[:1], prompt_lookup_num_tokens=5, max_new_tokens=20, do_sample=False)
    assert torch.equal(plain[:1, : theirs.shape[1]], theirs)
    theirs = hf_llama.generate(ids[:1], assistant_model=hf_llama, max_new_tokens=20, do_sample=False)
    assert torch.equal(plain[:1, : theirs.shape[1]], theirs)


def test_hugging_face_processors_and_criteria(hf_llama, tiny):
    transformers = pytest.importorskip("transformers")

    class Ban(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, input_ids.shape[1] % 50 :] = -float("inf")
            return scores

    class AfterSeven(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((input_ids.shape[0],), bool(input_ids[0, -1] % 7 == 0))

    ids, _ = batch_of(1, 7)
    lists = {
        "logits_processor": transformers.LogitsProcessorList([Ban()]),
        "stopping_criteria": transformers.StoppingCriteriaList([AfterSeven()]),
        "prefix_allowed_tokens_fn": lambda row, ids: list(range(3, 40)),
        "max_new_tokens": 15,
        "do_sample": False,
    }
    theirs = hf_llama.generate(ids, **lists)
    ours = generate(tiny, ids, **lists, return_dict_in_generate=True)
    assert torch.equal(ours.sequences, theirs)
    assert ours.finish_reasons == ["criteria" if theirs.shape[1] < 22 else "length"]


# Bad input


@pytest.mark.parametrize(
    ("inputs", "fields", "kind", "text"),
    [
        ([[1], []], {}, EmptyPromptError, "input_ids row 1: a prompt must have at least one token; found an empty row"),
        ([], {}, EmptyPromptError, "input_ids: there must be at least one row"),
        ([[0, 0], [1, 2]], {}, EmptyPromptError, "row 0: .* found 2 ids, all padding"),
        ([[1, 29]], {}, TokenRangeError, "row 0, position 1: ids must be from 0 to 28 .* of 29; found 29"),
        ([[1, 2], [-1, 3]], {}, TokenRangeError, "row 1, position 0: .*; found -1"),
        ([[1] * 41], {}, PromptTooLongError, "row 0: .* context of 40 tokens; found 41 tokens.* truncate_prompt=True"),
        ([[1.5]], {}, ArgumentError, "input_ids row 0: must hold integer token ids; found values of type float64"),
        ([[[1]]], {}, ArgumentError, "flat list of ids; found 2 dimensions"),
        (np.ones((1, 1, 1), int), {}, ArgumentError, r"shape \(rows, tokens\); found \(1, 1, 1\)"),
        ("text", {}, ArgumentError, "found str. Text goes through a tokenizer first"),
        ({"input_ids": [1]}, {}, ArgumentError, r"found dict. Pass \*\*input_ids"),
        ([[1]], {"input_ids": [[1]]}, ArgumentError, "inputs or input_ids, not both"),
        ([[1, 2, 3]], {"attention_mask": [[1, 0, 1]]}, ArgumentError, "row 0: .* a zero at position 1 between ones"),
        (
            [[1, 2, 3]],
            {"attention_mask": [[1, 1]]},
            ArgumentError,
            "one number for each id of input_ids, in rows of 3; found rows of 2",
        ),
        ([[1, 2]], {"attention_mask": [[2, 1]]}, ArgumentError, r"1 at tokens and 0 at padding; found \[1, 2\]"),
        ([[1, 2]], {"attention_mask": [[0, 0]]}, EmptyPromptError, "2 ids, all padding"),
        ([[1]], {"inputs_embeds": np.ones(3)}, UnsupportedError, "inputs_embeds is not supported. Pass input_ids"),
        ([[1]], {"synced_gpus": True}, UnsupportedError, "synced_gpus"),
        ([[1]], {"max_new_token": 4}, ArgumentError, "max_new_tokens"),
        ([[1]], {"num_beams": 2, "num_return_sequences": 3}, ArgumentError, r"at most num_beams \(2\); found 3"),
        ([[1]], {"num_return_sequences": 3}, ArgumentError, "must be 1 for greedy decoding"),
        ([[1]], {"num_beams": 2, "prompt_lookup_num_tokens": 3}, ArgumentError, "must be 1 with an assistant"),
        ([[1]] * 3, {"negative_prompt_ids": [[1], [2]]}, ArgumentError, "each of 3 prompts; found 2 rows"),
        ([[1]], {"assistant_model": hashed_model(7)}, UnsupportedError, "must be the model's, 29 ids; found 7 ids"),
    ],
)
def test_bad_input_is_named(inputs, fields, kind, text):
    model = model_with(eos_token_id=13, pad_token_id=0, max_length=40)
    with pytest.raises(kind, match=text):
        generate(model, inputs, **fields)
    assert model.calls.steps == []


def test_not_finite_logits_close_the_session():
    def logits_of(ids):
        return np.full(29, np.nan if len(ids) > 3 else 0.0, np.float32)

    model = model_with(logits_of)
    with pytest.raises(NonFiniteLogitsError, match="row 0, position 4"):
        generate(model, [[1, 2]])
    assert model.calls.num_closed == 1
    repaired = generate(model, [[1, 2]], max_new_tokens=4, remove_invalid_values=True)
    assert repaired == [[1, 2, 0, 0, 0, 0]]
    assert generate(model, [[1, 2]], max_new_tokens=4, remove_invalid_values=True, num_beams=2) == repaired


def test_the_context_ends_generation_and_says_so_once(caplog):
    from martlet.generation import settings as module

    module._said.clear()
    model = model_with(max_length=8)
    for _ in range(2):
        with caplog.at_level(logging.WARNING, "martlet"):
            output = generate(model, [[1, 2], [1] * 8], max_new_tokens=50, return_dict_in_generate=True)
    assert output.finish_reasons == ["context", "context"] and output.num_new_tokens == [6, 1]
    assert [record.message for record in caplog.records] == [
        "generation stopped at the end of the model's context of 8 tokens: "
        "after a prompt of 2 there was room for 6 new tokens"
    ]


def test_truncated_prompts_keep_their_last_tokens():
    model = model_with(max_length=16)
    long = list(range(1, 25))
    [result] = generate(model, [long], max_new_tokens=4, truncate_prompt=True)
    assert result == long + plain_greedy(model.logits_of, long[-12:], 4)
    [result] = generate(model, [long], max_new_tokens=100, truncate_prompt=True)
    assert result == long + plain_greedy(model.logits_of, long[-8:], 8)


def test_idle_sampling_fields_are_logged_once(caplog):
    from martlet.generation import settings as module

    module._said.clear()
    model = model_with()
    with caplog.at_level(logging.WARNING, "martlet"):
        for _ in range(2):
            generate(model, [[1]], temperature=0.3, do_sample=False)
    assert [record.message for record in caplog.records] == [
        "generate: temperature given, but do_sample is False, so the likeliest token is always chosen"
    ]


def test_configs_are_layered():
    model = model_with(eos_token_id=13, max_new_tokens=3)
    given = GenerationConfig(max_new_tokens=5)
    assert len(generate(model, [[1]], generation_config=given)[0]) <= 6
    merged = resolve_config(model, given, {"do_sample": True})
    assert (merged.max_new_tokens, merged.eos_token_id, merged.do_sample) == (5, 13, True)
    assert resolve_config(model, {"max_new_tokens": 7}, {}).max_new_tokens == 7
    transformers = pytest.importorskip("transformers")
    assert resolve_config(model, transformers.GenerationConfig(max_new_tokens=9), {}).max_new_tokens == 9


# Streams, time and interruption


class Listener:
    def __init__(self):
        self.heard, self.ended, self.failed = [], 0, None

    def put(self, ids):
        self.heard.append(np.asarray(ids).reshape(-1).tolist())

    def end(self):
        self.ended += 1

    def fail(self, error):
        self.failed = error


def test_streamers_hear_the_prompt_and_every_token():
    model = model_with(eos_token_id=13)
    for fields in ({}, {"prompt_lookup_num_tokens": 3}):
        listener = Listener()
        [result] = generate(model, [[1, 2]], streamer=listener, max_new_tokens=7, **fields)
        assert listener.heard == [[1, 2], *[[token] for token in result[2:]]]
        assert (listener.ended, listener.failed) == (1, None)
    with pytest.raises(ArgumentError, match="streamer: takes one sequence; found 2"):
        generate(model, [[1], [2]], streamer=Listener())
    with pytest.raises(ArgumentError, match="num_beams: must be 1 to stream"):
        generate(model, [[1]], streamer=Listener(), num_beams=2)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("lost")])
def test_streamers_hear_of_failure(error):
    hashed = hashed_logits()

    def logits_of(ids):
        if len(ids) > 4:
            raise error
        return hashed(ids)

    model, listener = model_with(logits_of), Listener()
    with pytest.raises(type(error)):
        generate(model, [[1, 2]], streamer=listener)
    assert listener.failed is error and listener.ended == 0 and len(listener.heard) == 4
    assert model.calls.num_closed == 1
    listener = Listener()
    with pytest.raises(ArgumentError):
        generate(model, [[1, 2]], streamer=listener, nonsense=1)
    assert isinstance(listener.failed, ArgumentError)


def test_stop_is_asked_every_step():
    model, flag = model_with(), threading.Event()
    listener = SimpleNamespace(put=lambda ids: flag.set(), end=lambda: None)
    output = generate(model, [[1, 2]], streamer=listener, stop=flag.is_set, return_dict_in_generate=True)
    assert output.finish_reasons == ["cancelled"] and output.num_new_tokens == [0]


def test_time():
    model = model_with()
    output = generate(model, [[1, 2]], max_time=1000.0, max_new_tokens=5, return_dict_in_generate=True)
    assert output.finish_reasons == ["length"]
    output = generate(model, [[1, 2]], max_time=1e-6, max_new_tokens=5, return_dict_in_generate=True)
    assert output.finish_reasons == ["time"] and output.num_new_tokens == [1]


# The ragged form and the output


def test_rows():
    model = model_with(eos_token_id=13)
    records = Records(keeps_logits=True)
    heard = []
    results = generate_rows(
        model,
        PROMPTS,
        GenerationConfig(max_new_tokens=4, do_sample=True, seed=1, num_return_sequences=2),
        on_token=lambda row, token: heard.append((row, token)),
        records=records,
    )
    assert [result.prompt for result in results] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [result.prompt_ids for result in results] == [row for row in PROMPTS for _ in range(2)]
    assert sorted(records.logits[0]) == list(range(10))
    for number, result in enumerate(results):
        assert [token for row, token in heard if row == number] == result.new_ids
    assert [result.ids for result in generate_rows(model, PROMPTS)] == generate(model, PROMPTS)


def test_output_reads_as_a_dictionary_and_a_tuple():
    model = model_with(pad_token_id=0)
    output = generate(model, [[1, 2]], max_new_tokens=2, return_dict_in_generate=True, output_scores=True)
    assert isinstance(output, GenerateOutput)
    assert list(output) == output.keys() == ["sequences", "scores", "finish_reasons", "num_new_tokens"]
    assert output["sequences"] is output.sequences is output[0] and output[:2] == (output.sequences, output.scores)
    assert "logits" not in output and output.get("logits") is None and len(output) == 4
    with pytest.raises(KeyError):
        output["logits"]


def test_reading_prompts_keeps_what_was_given():
    ids, mask = padded(PROMPTS, "middle")
    prompts = door.read_prompts(ids, mask, name="ids")
    assert [row.tolist() for row in prompts.rows] == PROMPTS
    assert prompts.starts == [1] * 5 and prompts.width == 9 and prompts.kind == "numpy"
    prompts.keep_last(1, 3)
    assert prompts.rows[1].tolist() == PROMPTS[1][-3:] and prompts.starts[1] == 5
    prompts.keep_last(0, 3)
    assert prompts.rows[0].tolist() == PROMPTS[0] and prompts.starts[0] == 1
