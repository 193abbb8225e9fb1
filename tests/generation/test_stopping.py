"""What ends a row: stop strings wherever tokens cut them, time, lengths, ends; against Hugging Face's criteria."""

import time

import numpy as np
import pytest
from generation_fakes import WholeRowModel
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet import generation
from martlet.errors import ArgumentError
from martlet.generation.config import GenerationConfig
from martlet.generation.generate import generate
from martlet.generation.stopping import MaxTime, StopString, TokenBytes, build_stops, from_criteria

VOCAB = 300


def saying(ids, num_prompt=1):
    def logits_of(row):
        logits = np.zeros(VOCAB, dtype=np.float32)
        logits[ids[min(len(row) - num_prompt, len(ids) - 1)]] = 1.0
        return logits

    model = WholeRowModel(logits_of, VOCAB)
    model.generation_config = None
    return model


def first_stop(tokenizer, ids, stops, num_prompt=0):
    """The slow, obvious reference: the first token after which the bytes hold a stop string that ends in it."""
    for place in range(num_prompt, len(ids)):
        text = tokenizer.decode(ids[: place + 1]).encode()
        before = tokenizer.decode(ids[:place]).encode()
        for stop in stops:
            found = text.rfind(stop.encode())
            if found >= 0 and found + len(stop.encode()) > len(before):
                return place
    return None


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("Hello stop here", ["stop"], "Hello stop"),
        ("the stopper", ["stop"], None),  # wherever the token that completes it ends
        ("a\n\nb", ["\n\n"], "a\n\n"),
        ("one two three", ["three", "two"], "one two"),
        ("no such thing", ["xyz"], "no such thing"),
        ("def f(x):\n    return x\n\nHello", ["x\n\nH"], None),
    ],
)
def test_stop_strings_end_where_the_string_is_whole(tokenizer, text, stops, expected):
    ids = tokenizer.encode(text, add_special_tokens=False)
    output = generate(
        saying([*ids, 2]),
        [[1]],
        max_new_tokens=100,
        eos_token_id=2,
        stop_strings=stops,
        tokenizer=tokenizer,
        return_dict_in_generate=True,
    )
    place = first_stop(tokenizer, ids, stops)
    answer = tokenizer.decode(output.sequences[0][1:], skip_special_tokens=True)
    if place is None:
        assert output.finish_reasons == ["eos"] and answer == text
    else:
        assert output.finish_reasons == ["stop_string"] and output.num_new_tokens == [place + 1]
        assert any(stop in answer for stop in stops)
    if expected is not None:
        assert answer.startswith(expected)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    st.text(st.sampled_from("stop e🙂東\n"), min_size=1, max_size=16),
    st.lists(st.text(st.sampled_from("stop e🙂東\n"), min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_any_cut_of_any_string(tokenizer, hf_tokenizer, text, stops):
    ids = tokenizer.encode(text, add_special_tokens=False)
    stop = StopString(tokenizer, stops)
    ours = next((place for place in range(len(ids)) if stop(np.array(ids[: place + 1]))), None)
    whole = "".join(map(chr, b"".join(TokenBytes(tokenizer)[one] for one in ids)))
    assert whole == "".join(map(chr, text.encode()))
    ends = [place for place in range(len(ids)) if completes(tokenizer, ids, place, stops)]
    assert ours == (ends[0] if ends else None)


def completes(tokenizer, ids, place, stops):
    pieces = TokenBytes(tokenizer)
    before = b"".join(pieces[one] for one in ids[:place])
    text = before + pieces[ids[place]]
    places = [
        at + len(stop.encode()) for stop in stops for at in range(len(text)) if text.startswith(stop.encode(), at)
    ]
    return any(end > len(before) for end in places)


@pytest.mark.parametrize("stop", ["stop", "st", "per", "o", " stopped to", "here. The", ")\n\n", "🙂", "東京"])
def test_the_criterion_says_what_hugging_faces_does(tokenizer, hf_tokenizer, tokenizer_folder, stop):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    text = "Hello world, stop here. The stopper stopped topping. 東京で 🙂 f(x)\n\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    theirs = transformers.StopStringCriteria(hf_tokenizer, [stop])
    ours = generation.StopStringCriteria(tokenizer, stop)
    of_theirs = generation.StopStringCriteria(hf_tokenizer, [stop])
    for place in range(1, len(ids) + 1):
        rows = torch.tensor([ids[:place], ids[:place][::-1]])
        mine = ours(rows, None)
        assert mine.dtype == torch.bool and torch.equal(mine, of_theirs(rows, None))
        if stop.isascii():  # Hugging Face compares the byte alphabet's letters
            assert torch.equal(mine, theirs(rows, None)), (place, stop)
    assert any(bool(ours(torch.tensor([ids[:place]]), None)) for place in range(1, len(ids) + 1))


def test_a_stop_string_may_begin_in_the_prompt(tokenizer):
    prompt = tokenizer.encode("Hello st", add_special_tokens=False)
    rest = tokenizer.encode("op here", add_special_tokens=False)
    output = generate(
        saying(rest, len(prompt)), [prompt], max_new_tokens=9, stop_strings="stop", tokenizer=tokenizer,
        return_dict_in_generate=True,
    )  # fmt: skip
    assert output.finish_reasons == ["stop_string"]
    assert "stop" in tokenizer.decode(output.sequences[0])


def test_stop_strings_a_row(tokenizer):
    ids = tokenizer.encode("one two three", add_special_tokens=False)
    output = generate(
        saying(ids), [[1], [1]], stop_strings=[["one"], ["three"]], max_new_tokens=len(ids), tokenizer=tokenizer,
        return_dict_in_generate=True,
    )  # fmt: skip
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in output.sequences]
    assert texts == ["one", "one two three"] and output.finish_reasons == ["stop_string"] * 2


def test_stop_strings_need_a_tokenizer(tokenizer):
    with pytest.raises(ArgumentError, match=r"stop_strings: needs the tokenizer. Pass tokenizer="):
        generate(saying([5]), [[1]], stop_strings=["a"])
    with pytest.raises(ArgumentError, match="stop_strings: must be strings of at least one character"):
        generation.StopStringCriteria(tokenizer, [""])


# Time


def test_time_ends_a_row_at_the_next_token():
    clock = iter([0.0, 0.5, 1.0, 1.5]).__next__
    stop = MaxTime(1.0, None, clock)
    assert [stop(np.array([1])) for _ in range(3)] == [None, None, "time"]


def test_max_time_in_generate():
    def slow(row):
        time.sleep(0.01)
        return np.eye(VOCAB, dtype=np.float32)[5]

    model = WholeRowModel(slow, VOCAB, max_length=4096)
    model.generation_config = None
    output = generate(model, [[1]], max_time=0.1, max_new_tokens=1000, return_dict_in_generate=True)
    assert output.finish_reasons == ["time"] and 1 <= output.num_new_tokens[0] <= 11
    output = generate(model, [[1], [1]], max_time=[0.05, 50.0], max_new_tokens=12, return_dict_in_generate=True)
    assert output.finish_reasons == ["time", "length"]


# Hugging Face's classes


def test_classes_agree_with_hugging_faces():
    transformers = pytest.importorskip("transformers.generation.stopping_criteria")
    torch = pytest.importorskip("torch")
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]])
    for name, arguments in (
        ("MaxLengthCriteria", (3,)),
        ("MaxLengthCriteria", (4, 10)),
        ("EosTokenCriteria", (3,)),
        ("EosTokenCriteria", ([6, 3],)),
        ("MaxTimeCriteria", (5.0, time.time() - 6)),
        ("MaxTimeCriteria", (5.0,)),
    ):
        ours, theirs = getattr(generation, name)(*arguments), getattr(transformers, name)(*arguments)
        assert torch.equal(ours(rows, None), theirs(rows, None)), (name, arguments)
        assert ours(rows.numpy(), None).tolist() == theirs(rows, None).tolist()
    ours = generation.StoppingCriteriaList([generation.MaxLengthCriteria(9), generation.EosTokenCriteria(3)])
    assert torch.equal(ours(rows, None), torch.tensor([True, False])) and ours.max_length == 9
    assert generation.StoppingCriteriaList()(rows, None).tolist() == [False, False]
    mixed = generation.StoppingCriteriaList([transformers.EosTokenCriteria(6), lambda ids, scores: False])
    assert mixed(rows, None).tolist() == [False, True] and mixed.max_length is None
    with pytest.raises(NotImplementedError, match="Mine must define __call__"):
        type("Mine", (generation.StoppingCriteria,), {})()(rows, None)


def test_reasons_of_criteria_in_generate(tokenizer):
    class AtSix(generation.StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            assert len(input_ids) == 1 and scores is None
            return input_ids[0, -1] == 6

    class Never(generation.MaxLengthCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return False

    model = saying([5, 6, 7, 8, 9, 10])
    cases = [
        ([AtSix()], "criteria", 2),
        (generation.StoppingCriteriaList([generation.MaxLengthCriteria(4)]), "length", 3),
        ([generation.EosTokenCriteria([8])], "eos", 4),
        ([generation.MaxTimeCriteria(0.0)], "time", 1),
        ([generation.StopStringCriteria(tokenizer, tokenizer.decode([7]))], "stop_string", 3),
        ([Never(2)], "length", 5),
    ]
    for criteria, reason, num_new in cases:
        output = generate(model, [[1]], stopping_criteria=criteria, max_new_tokens=5, return_dict_in_generate=True)
        assert (output.finish_reasons, output.num_new_tokens) == ([reason], [num_new])


def test_a_criterion_that_answers_for_many_is_named():
    stop = from_criteria(lambda ids, scores: np.array([True, False]))
    with pytest.raises(ArgumentError, match="must return one True or False for one row; found array"):
        stop(np.array([1, 2]))


def test_the_order_in_which_reasons_are_named(tokenizer):
    config = GenerationConfig(eos_token_id=2, stop_strings=["a"], max_new_tokens=1, max_time=0.0)
    stops = build_stops(config, prompt_length=1, tokenizer=tokenizer, extra=[lambda ids, scores: True], started_s=0.0)
    ids = np.array([1, 2])
    assert [stop(ids) for stop in stops] == ["eos", None, "length", "time", "criteria"]
    assert build_stops(GenerationConfig(max_length=4), prompt_length=2)[0](np.array([1, 2, 3, 4])) == "length"
