"""Streamers: whole characters only, from another thread or task, errors in the model heard by the reader."""

import asyncio
import queue
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from generation_fakes import WholeRowModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from martlet.errors import ArgumentError, NonFiniteLogitsError
from martlet.generation import AsyncTextIteratorStreamer, BaseStreamer, TextIteratorStreamer, TextStreamer
from martlet.generation.generate import generate

TEXT = "naïve 東京 🙂🙃\n ok. x\n"
VOCAB = 300


def backend(logits_of):
    model = WholeRowModel(logits_of, VOCAB)
    model.generation_config = None
    return model


def model_of(ids, fail_after=None):
    """A model that says these ids, whatever the prompt of two, and then 2, the end."""

    def logits_of(row):
        place = len(row) - 2
        if fail_after is not None and place >= fail_after:
            raise RuntimeError("the model broke")
        logits = np.zeros(VOCAB, dtype=np.float32)
        logits[ids[place] if place < len(ids) else 2] = 1.0
        return logits

    return backend(logits_of)


def run(model, streamer, prompt=(1, 1), **fields):
    fields = {"max_new_tokens": 200, "eos_token_id": 2, "pad_token_id": 0, **fields}
    return generate(model, [list(prompt)], generation_config=fields, streamer=streamer)


@pytest.fixture(params=["ours", "hf"])
def either(request, tokenizer, hf_tokenizer):
    return tokenizer if request.param == "ours" else hf_tokenizer


class Pieces(TextStreamer):
    """A subclass as users write them."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.pieces, self.ends = [], 0

    def on_finalized_text(self, text, stream_end=False):
        self.pieces.append(text)
        self.ends += stream_end


def test_whole_characters_are_printed_and_a_newline(either, capsys):
    ids = either.encode(TEXT, add_special_tokens=False)
    assert len(ids) > len(TEXT) // 2
    run(model_of(ids), TextStreamer(either, skip_prompt=True, skip_special_tokens=True))
    assert capsys.readouterr().out == TEXT + "\n"
    run(model_of(ids), TextStreamer(either))
    assert capsys.readouterr().out == "<s><s>" + TEXT + "</s>\n"


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=25), st.booleans())
def test_pieces_are_the_text_and_never_half_a_character(either, text, with_end):
    streamer = Pieces(either, skip_prompt=True)
    ids = either.encode(text, add_special_tokens=False) + [2] * with_end
    streamer.put(np.array([[1, 5]]))
    for one in ids:
        streamer.put(np.array([one]))
    streamer.end()
    assert "".join(streamer.pieces) == either.decode(ids)
    assert not any("\ufffd" in piece for piece in streamer.pieces) or "\ufffd" in text
    assert streamer.ends == 1


def test_a_broken_character_at_the_end_is_shown_as_such(either):
    streamer = Pieces(either)
    ids = either.encode("東", add_special_tokens=False)
    assert len(ids) > 1
    for one in ids[:-1]:
        streamer.put([one])
    assert streamer.pieces in ([], [""])
    streamer.end()
    assert "".join(streamer.pieces) == either.decode(ids[:-1]) and "\ufffd" in streamer.pieces[-1]


def test_a_streamer_serves_one_prompt_after_another(tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=5)
    for text in ("one", "two 🙂"):
        run(model_of(tokenizer.encode(text, add_special_tokens=False)), streamer)
        assert "".join(streamer) == text


def test_tensors_for_tensors():
    torch = pytest.importorskip("torch")
    heard = []
    streamer = SimpleNamespace(put=heard.append, end=lambda: heard.append("end"))  # put and end are all it needs
    generate(model_of([7, 8]), torch.tensor([[0, 1, 1]]), streamer=streamer, max_new_tokens=2, pad_token_id=0)
    assert [each.tolist() for each in heard[:-1]] == [[[1, 1]], [7], [8]] and heard[-1] == "end"
    assert all(isinstance(each, torch.Tensor) for each in heard[:-1])
    heard.clear()
    run(model_of([7]), streamer)
    assert [each.tolist() for each in heard[:-1]] == [[[1, 1]], [7], [2]] and isinstance(heard[0], np.ndarray)


def test_hugging_faces_own_streamer(hf_tokenizer, capsys):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    ids = hf_tokenizer.encode(TEXT, add_special_tokens=False)
    streamer = transformers.TextIteratorStreamer(hf_tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=5)
    generate(model_of(ids), torch.tensor([[1, 1]]), streamer=streamer, max_new_tokens=200, eos_token_id=2)
    assert "".join(streamer) == TEXT


# From another thread or task


def in_thread(work):
    errors = []

    def target():
        try:
            work()
        except BaseException as error:  # what a thread would print, kept
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    return thread, errors


def test_text_from_a_thread_as_it_comes(tokenizer):
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    gate, said = threading.Semaphore(0), model_of(ids)
    logits_of = said.logits_of

    def gated(row):
        if len(row) > 2:
            gate.acquire(timeout=20)
        return logits_of(row)

    said.logits_of = gated
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20, skip_special_tokens=True)
    thread, errors = in_thread(lambda: run(said, streamer))
    assert (first := next(streamer)) and TEXT.startswith(first)  # while the model waits for us
    for _ in range(len(ids) + 1):
        gate.release()
    assert first + "".join(streamer) == TEXT
    thread.join(20)
    assert errors == [] and list_is_over(streamer)


def list_is_over(streamer):
    streamer.timeout = 0.01
    with pytest.raises(queue.Empty):
        next(streamer)
    return True


def test_an_error_in_the_model_is_raised_in_the_reader(tokenizer):
    ids = tokenizer.encode("Hello world", add_special_tokens=False)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)  # no timeout: it must not hang
    thread, errors = in_thread(lambda: run(model_of(ids, fail_after=2), streamer))
    pieces = []
    with pytest.raises(RuntimeError, match="the model broke"):
        pieces.extend(iter(streamer.__next__, object()))
    thread.join(20)
    assert "".join(pieces) == tokenizer.decode(ids[:2]) and [str(error) for error in errors] == ["the model broke"]


def test_errors_before_the_first_token_and_of_numbers(tokenizer):
    streamer = TextIteratorStreamer(tokenizer)
    thread, errors = in_thread(lambda: run(model_of([5]), streamer, colour="red"))
    with pytest.raises(ArgumentError, match="there is no field 'colour'"):
        next(streamer)
    thread.join(20)
    broken = backend(lambda row: np.full(VOCAB, np.nan, dtype=np.float32))
    thread, errors = in_thread(lambda: run(broken, streamer))
    with pytest.raises(NonFiniteLogitsError):
        "".join(streamer)
    thread.join(20)
    assert isinstance(errors[0], NonFiniteLogitsError)


def test_a_reader_that_leaves_early_stops_nothing(tokenizer):
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    streamer, gone = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20), threading.Event()
    results = []
    thread, errors = in_thread(lambda: results.append(run(model_of(ids), streamer)))
    for _ in streamer:
        break
    thread.join(20)
    assert errors == [] and results[0][0] == [1, 1, *ids, 2]
    fields = {"max_new_tokens": 200, "eos_token_id": 2, "return_dict_in_generate": True}
    streamer, model = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20), model_of(ids)
    gone.set()  # the way to stop it: the `stop` argument
    output = generate(model, [[1, 1]], streamer=streamer, stop=gone.is_set, **fields)
    assert output.finish_reasons == ["cancelled"] and "".join(streamer) == ""


def test_no_text_in_time(tokenizer):
    with pytest.raises(queue.Empty):
        next(TextIteratorStreamer(tokenizer, timeout=0.01))


@pytest.mark.parametrize("fails", [False, True])
def test_text_for_a_task(tokenizer, fails):
    ids = tokenizer.encode(TEXT, add_special_tokens=False)

    async def read():
        streamer = AsyncTextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20, skip_special_tokens=True)
        thread, errors = in_thread(lambda: run(model_of(ids, fail_after=3 if fails else None), streamer))
        pieces = []
        try:
            async for piece in streamer:
                pieces.append(piece)
        finally:
            thread.join(20)
        assert errors == []
        return "".join(pieces)

    if fails:
        with pytest.raises(RuntimeError, match="the model broke"):
            asyncio.run(read())
    else:
        assert asyncio.run(read()) == TEXT

    async def wait():
        await anext(AsyncTextIteratorStreamer(tokenizer, timeout=0.01))

    with pytest.raises(TimeoutError):
        asyncio.run(wait())


def test_a_reader_whose_loop_is_gone_ends_the_model_with_its_own_error(tokenizer):
    async def make():
        return AsyncTextIteratorStreamer(tokenizer, skip_prompt=True)

    streamer = asyncio.run(make())
    with pytest.raises(RuntimeError, match="the model broke"):
        run(model_of([5], fail_after=0), streamer)


# Bad input


def test_bad_arguments_are_named(tokenizer):
    with pytest.raises(ArgumentError, match="TextStreamer: there is no argument 'skip_specials'"):
        TextStreamer(tokenizer, skip_specials=True)
    with pytest.raises(ArgumentError, match=r"streamer: needs a tokenizer, which has a decode method.*found str"):
        TextIteratorStreamer("gpt2")
    streamer = TextStreamer(tokenizer)
    with pytest.raises(ArgumentError, match="streamer: takes one sequence; found 2 rows"):
        streamer.put(np.array([[1], [2]]))


def test_streamers_of_ones_own(tokenizer):
    class Counts(BaseStreamer):
        seen, ends = 0, 0

        def put(self, value):
            self.seen += np.asarray(value).size

        def end(self):
            self.ends += 1

    counts = Counts()
    run(model_of([5, 6, 7]), counts)
    assert (counts.seen, counts.ends) == (2 + 3 + 1, 1)  # the prompt, the ids, the end
    assert isinstance(TextStreamer(tokenizer), BaseStreamer)
    for call in (lambda: BaseStreamer().put(1), lambda: BaseStreamer().end()):
        with pytest.raises(NotImplementedError, match="must define"):
            call()
