"""`pipeline("text-generation")` against Hugging Face's: inputs, keywords, answers; and what ours does besides."""

import itertools
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import martlet
from martlet.errors import (
    ArgumentError,
    ChatTemplateError,
    DeviceError,
    EmptyPromptError,
    PromptTooLongError,
    UnsupportedError,
)
from martlet.pipelines import KeyDataset, ReturnType, TextGenerationPipeline

REPOSITORY = Path(__file__).parents[2]
PROMPT = "The martlet is"
PROMPTS = ["The martlet is a bird", "Once", "What is the capital of France? Paris. Und", "ß"]
CHAT = [{"role": "user", "content": "What is the capital of France?"}]
PREFILL = [*CHAT, {"role": "assistant", "content": "It is"}]
TALK = [{"role": "system", "content": "Be brief."}, *CHAT, {"role": "assistant", "content": "Paris."}, *CHAT]
GREEDY = {"do_sample": False, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.pipeline("text-generation", str(folder), device="cpu")


@pytest.fixture(scope="module")
def ours(folder):
    return martlet.pipeline("text-generation", str(folder), device="cpu")


@pytest.mark.parametrize("inputs", [PROMPT, PROMPTS, PROMPTS[:1], CHAT, PREFILL, TALK, [CHAT, PREFILL, TALK], ""])
@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"return_full_text": False},
        {"return_full_text": True},
        {"return_text": True},
        {"return_tensors": True},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 3, "num_return_sequences": 3, "return_tensors": True, "max_new_tokens": 40},
        {"stop_sequence": "e"},
        {"stop_strings": ["e", " a"], "return_full_text": False},
        {"add_special_tokens": False},
        {"prefix": "Once. "},
        {"skip_special_tokens": False, "clean_up_tokenization_spaces": True},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "max_new_tokens": 30},
        {"generation_config": {"max_new_tokens": 7, "suppress_tokens": [40, 41]}},
    ],
    ids=lambda keywords: "-".join(keywords) or "plain",
)
def test_answers_are_hugging_faces(theirs, ours, inputs, keywords):
    keywords = {**GREEDY, **keywords}
    if "generation_config" in keywords:
        keywords["generation_config"] = transformers.GenerationConfig(**keywords["generation_config"], do_sample=False)
        del keywords["max_new_tokens"], keywords["do_sample"]
    elif "stop_strings" in keywords:  # which theirs takes by its older name alone
        assert ours(inputs, **keywords) == theirs(inputs, stop_sequence=keywords.pop("stop_strings"), **keywords)
        return
    assert ours(inputs, **keywords) == theirs(inputs, **keywords)


@pytest.mark.parametrize(
    ("inputs", "keywords"),
    [
        (PREFILL, {"continue_final_message": False}),
        (TALK, {"continue_final_message": False, "return_full_text": False}),
        (CHAT, {"continue_final_message": True}),
        ([CHAT, PREFILL], {"continue_final_message": True}),
        (PROMPTS, {"tokenizer_encode_kwargs": {"truncation": True, "max_length": 3}}),
        (PROMPTS, {"tokenizer_encode_kwargs": {"add_special_tokens": False}, "return_tensors": True}),
        (CHAT, {"tokenizer_encode_kwargs": {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}}),
        (CHAT, {"add_special_tokens": True}),
        (PROMPTS, {"truncation": True, "max_length": 4}),
        (PROMPTS, {"max_length": 4}),
        (PROMPTS, {"max_length": 40, "max_new_tokens": None}),
        (PROMPTS, {"max_length": 40, "max_new_tokens": None, "prefix": "Once upon a time. ", "return_tensors": True}),
        (PROMPTS, {"min_length": 30, "max_new_tokens": 35, "prefix": "Once upon a time. "}),
        ("Once " * 400, {"handle_long_generation": "hole"}),
        ("Once " * 400, {"handle_long_generation": "hole", "return_tensors": True, "max_new_tokens": 200}),
        ([*PROMPTS, "Once " * 400], {"handle_long_generation": "hole"}),
        (PROMPTS, {"truncation": True, "padding": True, "num_workers": 0}),
        ([], {}),
        (tuple(CHAT), {}),
        ([tuple(CHAT)], {}),
    ],
)
def test_keywords_mean_what_they_mean_to_hugging_face(theirs, ours, inputs, keywords):
    keywords = {**GREEDY, **keywords}
    if inputs == []:
        assert ours(inputs, **keywords) == []
        return
    if keywords["max_new_tokens"] is None:
        del keywords["max_new_tokens"]
    assert ours(inputs, **keywords) == theirs(inputs, **keywords)


def test_scores_come_with_the_text_as_nested_lists(theirs, ours):
    keywords = {**GREEDY, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    for inputs in (PROMPT, CHAT):
        (got,), (want,) = ours(inputs, **keywords), theirs(inputs, **keywords)
        assert got.keys() == want.keys()
        assert got["generated_text"] == want["generated_text"]
        for name in ("scores", "logits"):
            torch.testing.assert_close(torch.tensor(got[name]), torch.tensor(want[name]), atol=2e-4, rtol=1e-4)
    beams = {**keywords, "num_beams": 3, "num_return_sequences": 2, "output_logits": False}
    got, want = ours(PROMPT, **beams), theirs(PROMPT, **beams)
    assert [record["generated_text"] for record in got] == [record["generated_text"] for record in want]
    for mine, reference in zip(got, want, strict=True):
        assert set(mine) == set(reference)
        assert mine["sequences_scores"] == pytest.approx(reference["sequences_scores"], abs=1e-4)
    assert "scores" not in ours(PROMPT, **keywords, return_tensors=True)[0]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_no_answer_depends_on_the_batch(ours, batch_size):
    prompts = [*PROMPTS, CHAT, PREFILL, "Once upon a time there was a gardener who watered"]
    alone = [ours(prompt, **GREEDY) for prompt in prompts]
    assert ours(prompts, **GREEDY, batch_size=batch_size) == alone
    assert list(ours(iter(prompts), **GREEDY, batch_size=batch_size)) == alone
    sampled = {"do_sample": True, "max_new_tokens": 10, "temperature": 1.5}
    seeded = [ours(prompt, **sampled, seed=5) for prompt in prompts]
    assert ours(prompts, **sampled, seed=5, batch_size=batch_size) == seeded
    martlet.set_seed(3)
    one_by_one = ours(prompts, **sampled, num_return_sequences=2)
    martlet.set_seed(3)
    assert ours(prompts, **sampled, num_return_sequences=2, batch_size=batch_size) == one_by_one
    assert len(one_by_one[0]) == 2 and one_by_one[0][0] != one_by_one[0][1]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_lists_give_each_prompt_its_value(ours, batch_size):
    lengths, seeds = [3, 9, 1, 5], [1, 2, 3, 4]
    got = ours(PROMPTS, do_sample=True, max_new_tokens=lengths, seed=seeds, batch_size=batch_size)
    want = [
        ours(prompt, do_sample=True, max_new_tokens=length, seed=seed)
        for prompt, length, seed in zip(PROMPTS, lengths, seeds, strict=True)
    ]
    assert got == want
    with pytest.raises(ArgumentError, match="max_new_tokens: must have one value for each of 4 prompts; found 2 value"):
        ours(PROMPTS, max_new_tokens=[1, 2])
    answers = ours(iter(PROMPTS), do_sample=False, max_new_tokens=[1, 2])
    next(answers), next(answers)
    with pytest.raises(ArgumentError, match="one value for each prompt; found 2 values"):
        next(answers)


def test_sampling_follows_set_seed_and_generators(ours):
    sampled = {"do_sample": True, "max_new_tokens": 12, "temperature": 2.0}
    for make in (lambda: torch.Generator().manual_seed(4), lambda: __import__("random").Random(4)):
        first = ours(PROMPT, generator=make(), **sampled)
        assert first == ours(PROMPT, generator=make(), **sampled)
        generator = make()
        assert [ours(PROMPT, generator=generator, **sampled) for _ in range(2)][1] != first
    martlet.set_seed(9)
    answer = ours(PROMPT, **sampled)[0]["generated_text"]
    martlet.set_seed(9)
    ids = ours.tokenizer(PROMPT, return_tensors="pt").input_ids
    output = ours.model.generate(ids, **sampled)[0, ids.shape[1] :]
    assert answer == PROMPT + ours.tokenizer.decode(output, skip_special_tokens=True)
    with pytest.raises(ArgumentError, match="generator: must be a torch, numpy or random generator; found int"):
        ours(PROMPT, generator=4)


def test_iterators_are_read_as_their_answers_are(ours):
    read = []

    def prompts():
        for prompt in itertools.cycle(PROMPTS):
            read.append(prompt)
            yield prompt

    answers = ours(prompts(), **GREEDY, batch_size=2)
    assert len(read) == 1  # to tell prompts from the messages of a chat
    want = [ours(prompt, **GREEDY) for prompt in PROMPTS]
    assert next(answers) == want[0] and read == PROMPTS[:2]
    assert next(answers) == want[1] and read == PROMPTS[:2]
    assert list(itertools.islice(answers, 3)) == [want[2], want[3], want[0]]
    assert ours((message for message in CHAT), **GREEDY) == ours(CHAT, **GREEDY)
    assert list(ours((chat for chat in (CHAT, PREFILL)), **GREEDY)) == ours([CHAT, PREFILL], **GREEDY)
    assert ours(iter([])) == []


class Rows(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def test_datasets_are_read_lazily_and_again(ours):
    want = ours(PROMPTS, **GREEDY)
    columns = Rows([{"text": prompt, "number": 1} for prompt in PROMPTS])
    from martlet.pipelines.pt_utils import KeyDataset as AsImportedByScripts

    for dataset in (
        Rows(PROMPTS),
        AsImportedByScripts(columns, "text"),
        KeyDataset(columns, "text"),
        transformers.pipelines.pt_utils.KeyDataset(columns, "text"),
        Rows([{"text": prompt} for prompt in PROMPTS]),
        dict.fromkeys(PROMPTS).keys(),
    ):
        answers = ours(dataset, **GREEDY, batch_size=3)
        assert len(answers) == 4
        assert next(answers) == want[0] and next(answers) == want[1]
        assert list(answers) == want and list(answers) == want
    assert list(ours(Rows([CHAT, PREFILL]), **GREEDY)) == ours([CHAT, PREFILL], **GREEDY)
    with pytest.raises(ArgumentError, match=r"input 0: a row of several columns .* found 'text', 'number'. Pass KeyD"):
        list(ours(columns, **GREEDY))


def test_streamers_hear_what_the_answer_says(ours):
    streamer = martlet.TextIteratorStreamer(ours.tokenizer, skip_prompt=True, skip_special_tokens=True)
    answer = ours(PROMPT, streamer=streamer, return_full_text=False, **GREEDY)[0]["generated_text"]
    assert "".join(streamer) == answer
    streamer = martlet.TextIteratorStreamer(ours.tokenizer, skip_prompt=True)
    with pytest.raises(ArgumentError, match="streamer: takes one sequence; found 2"):
        ours(PROMPTS, streamer=streamer, batch_size=2, **GREEDY)


def test_keywords_of_the_pipeline_hold_for_every_call(theirs, ours, folder):
    given = {**GREEDY, "return_full_text": False, "stop_sequence": "a", "batch_size": 2, "repetition_penalty": 1.2}
    mine = martlet.pipeline("text-generation", ours.model, tokenizer=ours.tokenizer, **given)
    reference = transformers.pipeline("text-generation", theirs.model, tokenizer=theirs.tokenizer, **given)
    reference._batch_size = 1  # its batches are padded, which its answers show
    calls = [
        {},
        {"max_new_tokens": 3},
        {"return_full_text": True},
        {"return_tensors": True},
        {"stop_sequence": "e"},
        {"generation_config": transformers.GenerationConfig(do_sample=False, max_new_tokens=5)},
    ]
    for keywords in calls:
        assert mine(PROMPTS, **keywords) == reference(PROMPTS, **keywords), keywords
    assert mine(PROMPT, generate_kwargs={"max_new_tokens": 3}) == mine(PROMPT, max_new_tokens=3)


FILES = [
    {},
    {"max_length": 40},
    {"max_new_tokens": 9},
    {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    {"do_sample": False},
    {"temperature": 0.6},
    {"pad_token_id": 2},
]
LAYERS = [
    ({}, {}),
    ({"do_sample": False}, {}),
    ({"max_length": 30}, {}),
    ({}, {"max_length": 30}),
    ({"max_new_tokens": 5, "temperature": 0.5}, {"do_sample": False}),
    ({"max_new_tokens": 5}, {"max_new_tokens": 6, "do_sample": True}),
    ({"top_k": 7}, {"generation_config": {"top_p": 0.5}}),
    ({"generation_config": {"top_p": 0.5, "max_new_tokens": 8}}, {"top_p": 0.25}),
]


@pytest.mark.parametrize("said", FILES, ids=lambda said: "-".join(said) or "nothing")
def test_defaults_apply_where_hugging_faces_do(theirs, ours, said, tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "bos_token_id": 1, **said}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs.model, "generation_config", transformers.GenerationConfig.from_pretrained(tmp_path))
        patch.setattr(ours.model, "generation_config", martlet.GenerationConfig.from_pretrained(tmp_path))
        for init, call in LAYERS:
            reference = transformers.pipeline(
                "text-generation", theirs.model, tokenizer=theirs.tokenizer, **_their_config(init)
            )
            keywords = reference._prepare_generate_kwargs(_their_config(call))
            want = reference._get_set_generation_params(keywords)
            mine = martlet.pipeline("text-generation", ours.model, tokenizer=ours.tokenizer, **init)
            for name in ("max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "pad_token_id"):
                value, origin = mine.describe(**call)[name]
                if name == "max_new_tokens" and "max_length" in {**init, **call}:
                    continue  # of two lengths ours is the later; theirs is max_new_tokens
                if name in want:
                    assert value == want[name], (init, call, name)
                else:
                    assert origin == "Hugging Face default", (init, call, name)


def _their_config(keywords):
    config = keywords.get("generation_config")
    if config is None:
        return keywords
    return {**keywords, "generation_config": transformers.GenerationConfig(**config)}


def test_describe_says_where_each_setting_is_from(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3], "top_p": 0.9}))
    pipe = martlet.pipeline(model=copy, device=-1, top_k=7, return_full_text=False)
    told = pipe.describe(max_new_tokens=3, batch_size=2)
    assert told["max_new_tokens"] == (3, "call")
    assert told["batch_size"] == (2, "call")
    assert told["top_k"] == (7, "pipeline keyword")
    assert told["return_type"] == (ReturnType.NEW_TEXT, "pipeline keyword")
    assert told["top_p"] == (0.9, "generation_config.json")
    assert told["eos_token_id"] == ([2, 3], "generation_config.json")
    assert told["do_sample"] == (True, "pipeline default")
    assert told["temperature"] == (0.7, "pipeline default")
    assert told["pad_token_id"] == (0, "pipeline default")
    assert told["num_beams"] == (1, "Hugging Face default")
    assert pipe.describe()["max_new_tokens"] == (256, "pipeline default")
    assert pipe.generation_config.max_new_tokens == 256
    assert pipe.describe(do_sample=False)["temperature"] == (1.0, "Hugging Face default")
    lines = str(told).splitlines()
    assert lines[0].split() == ["setting", "value", "from"]
    assert "temperature           0.7       pipeline default" in lines
    assert any(line.split() == ["return_type", "NEW_TEXT", "pipeline", "keyword"] for line in lines)
    pipe.model.generation_config.temperature = 0.3
    assert pipe.describe()["temperature"] == (0.3, "model.generation_config")
    (copy / "generation_config.json").unlink()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "max_length": 33}))
    told = martlet.pipeline(model=str(copy)).describe()
    assert told["max_length"] == (33, "model config") and told["max_new_tokens"] == (None, "Hugging Face default")


# ---- making one


@pytest.mark.parametrize("as_path", [str, Path])
def test_the_task_follows_from_the_model(folder, as_path, ours):
    pipe = martlet.pipeline(model=as_path(folder), dtype=torch.float64, model_kwargs={"local_files_only": True})
    assert (pipe.task, pipe.dtype, pipe.device) == ("text-generation", torch.float64, torch.device("cpu"))
    assert pipe(PROMPT, **GREEDY) == ours(PROMPT, **GREEDY)


def test_a_loaded_model_knows_its_tokenizer(folder, ours, tmp_path):
    model = martlet.AutoModelForCausalLM.from_pretrained(folder)
    assert martlet.pipeline("text-generation", model)(CHAT, **GREEDY) == ours(CHAT, **GREEDY)
    named = martlet.pipeline("text-generation", model, tokenizer=str(folder))
    assert named(CHAT, **GREEDY) == ours(CHAT, **GREEDY)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert martlet.pipeline("text-generation", model, None, theirs)(CHAT, **GREEDY) == ours(CHAT, **GREEDY)
    fresh = martlet.AutoModelForCausalLM.from_config(model.config)
    with pytest.raises(
        ArgumentError, match=r"needs a tokenizer: the model was not loaded from a name or path. Pass to"
    ):
        martlet.pipeline("text-generation", fresh)
    named.save_pretrained(tmp_path)
    assert martlet.pipeline(model=tmp_path)(CHAT, **GREEDY) == ours(CHAT, **GREEDY)
    again = transformers.pipeline("text-generation", str(tmp_path), device="cpu")
    assert again(CHAT, **GREEDY) == ours(CHAT, **GREEDY)


def test_what_only_loading_could_do_is_said_of_a_loaded_model(ours, caplog):
    pipe = martlet.pipeline(
        "text-generation", ours.model, tokenizer=ours.tokenizer, torch_dtype=torch.bfloat16, device_map="auto"
    )
    assert pipe.dtype == torch.float32
    assert "device_map, torch_dtype given, but the model is loaded already" in caplog.text


def test_a_config_may_be_given(folder, ours):
    config = martlet.AutoConfig.from_pretrained(folder)
    assert martlet.pipeline(model=folder, config=config)(PROMPT, **GREEDY) == ours(PROMPT, **GREEDY)
    assert martlet.pipeline(model=folder, config=str(folder))(PROMPT, **GREEDY) == ours(PROMPT, **GREEDY)


def test_an_assistant_may_be_named(folder, ours):
    pipe = martlet.pipeline(model=folder, assistant_model=str(folder))
    assert pipe(PROMPT, **GREEDY) == ours(PROMPT, **GREEDY)
    assert ours(PROMPT, assistant_model=ours.model, **GREEDY) == ours(PROMPT, **GREEDY)


def test_a_rendered_chat_gets_no_second_bos(ours):
    text = ours.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<s>")
    ids = ours(text, return_tensors=True, **GREEDY)[0]["generated_token_ids"]
    assert ids == ours(CHAT, return_tensors=True, **GREEDY)[0]["generated_token_ids"]
    assert ids[0] == 1 and ids[1] != 1
    assert ours(text, prefix="<pad>", return_tensors=True, **GREEDY)[0]["generated_token_ids"][:2] == [0, 1]


def test_a_model_of_a_prefix_puts_it_before_texts(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "prefix": "Once. "}))
    mine = martlet.pipeline(model=copy)
    reference = transformers.pipeline("text-generation", str(copy), device="cpu")
    assert mine(PROMPTS, **GREEDY) == reference(PROMPTS, **GREEDY)
    assert mine(CHAT, **GREEDY) == reference(CHAT, **GREEDY)
    assert mine.describe()["prefix"] == ("Once. ", "model config")
    assert mine.describe(prefix="")["prefix"] == ("", "call")
    assert mine(PROMPT, prefix="", **GREEDY) == reference(PROMPT, prefix="", **GREEDY)


def test_the_last_block_of_text_is_continued(ours):
    def blocks(text):
        return [{"type": "image"}, {"type": "text", "text": text}]

    template = "{% for m in messages %}{% for b in m.content if b.type == 'text' %}{{ b.text }}{% endfor %}{% endfor %}"
    keywords = {**GREEDY, "tokenizer_encode_kwargs": {"chat_template": template}}
    chat = [{"role": "assistant", "content": blocks("It is"), "name": "Ann"}]
    answer = ours(chat, return_full_text=False, **keywords)[0]["generated_text"]
    (got,) = ours(chat, **keywords)
    assert got["generated_text"] == [{"role": "assistant", "content": blocks("It is" + answer), "name": "Ann"}]
    assert chat[0]["content"][1]["text"] == "It is"


# ---- what is refused


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({"max_new_token": 3}, ArgumentError, "does not take the keyword 'max_new_token'. Is 'max_new_tokens' meant?"),
        ({"retrun_full_text": True}, ArgumentError, "Is 'return_full_text' meant?"),
        ({"max_new_tokens": 0}, ArgumentError, "max_new_tokens: must be an integer of at least 1; found 0."),
        ({"batch_size": 0}, ArgumentError, "batch_size: must be an integer of at least 1; found 0."),
        ({"return_full_text": True, "return_tensors": True}, ArgumentError, "takes one keyword for what to return;"),
        ({"return_text": False}, ArgumentError, "return_text: cannot be False alone. Pass return_tensors=True"),
        ({"handle_long_generation": "cut"}, ArgumentError, "handle_long_generation: must be one of 'hole'; found 'cut"),
        ({"stop_sequence": 3}, ArgumentError, "stop_sequence: must be a string or a list of strings; found 3."),
        ({"stop_sequence": "a", "stop_strings": "b"}, ArgumentError, "takes stop_sequence or stop_strings, not both"),
        ({"tokenizer_encode_kwargs": {"return_tensors": "pt"}}, ArgumentError, "without return_tensors"),
        ({"generate_kwargs": {"max_new_tokens": 1}, "max_new_tokens": 2}, ArgumentError, "both by itself and in"),
        ({"generation_config": 3}, ArgumentError, "generation_config: must be a GenerationConfig or a dict; found int"),
        ({"penalty_alpha": 0.6}, UnsupportedError, "penalty_alpha: is not supported; found 0.6."),
        ({"do_sample": True, "temperature": 0.0}, ArgumentError, "temperature: must be greater than 0 to sample"),
    ],
)
def test_keywords_that_mean_nothing_are_refused_early(ours, folder, keywords, kind, message):
    with pytest.raises(kind) as caught:
        ours(PROMPT, **keywords)
    assert message in str(caught.value)
    with pytest.raises(kind) as caught:
        martlet.pipeline("text-generation", ours.model, tokenizer=ours.tokenizer, **keywords)
    assert message in str(caught.value).replace("pipeline: does", "text-generation pipeline: does")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (3, "needs a string, a chat, a list of either, a dataset or an iterator; found int."),
        (None, "found NoneType."),
        ({"role": "user", "content": "Hi"}, "found dict. A chat is a list of messages."),
        ({"text": "Hi"}, "found dict. Pass one of its values."),
        (["a", 3], "input 1: must be a string or a chat (a list of messages); found int."),
        ([["a"]], "input 0: must be a string or a chat (a list of messages); found list."),
        (["a", CHAT[0]], "input 1: must be a string or a chat (a list of messages); found dict. A chat is a list of"),
        ([*CHAT, {"role": "user"}], "chat, message 1: must be a dict with role and content; found keys 'role'."),
    ],
)
def test_inputs_that_are_no_prompts_are_named(ours, inputs, message):
    with pytest.raises(ArgumentError) as caught:
        ours(inputs)
    assert message in str(caught.value)


def test_prompts_that_cannot_be_continued_are_refused(ours, folder, tmp_path):
    long = "Once " * 2000
    with pytest.raises(PromptTooLongError, match=r"must fit the model's context of 512 tokens; found \d+ tokens"):
        ours(long)
    assert len(ours(long, truncate_prompt=True, **GREEDY)[0]["generated_text"]) > len(long)
    with pytest.raises(PromptTooLongError, match="300 new tokens must leave room for a prompt in 256 tokens"):
        ours(long, handle_long_generation="hole", max_new_tokens=300)
    config = json.loads((folder / "config.json").read_text())
    model = martlet.AutoModelForCausalLM.from_config({**config, "bos_token_id": None})
    with pytest.raises(EmptyPromptError, match="prompt: gives no token, and the model has no bos_token_id"):
        martlet.pipeline(model=model, tokenizer=ours.tokenizer)("", add_special_tokens=False)
    tokenizer = martlet.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    with pytest.raises(ChatTemplateError, match="chat template: this tokenizer has none"):
        martlet.pipeline(model=ours.model, tokenizer=tokenizer)(CHAT)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("text-generatoin", "; found 'text-generatoin'. Is 'text-generation' meant?"),
        ("summarization", "found 'summarization'. Use text-generation with a chat model."),
        ("sumarization", "found 'sumarization'. Use text-generation with a chat model."),
        ("image-classification", "zero-shot-classification; found 'image-classification'."),
        (3, "task: must be a string; found int."),
    ],
)
def test_a_task_that_is_not_there_is_named(task, message):
    with pytest.raises(ArgumentError) as caught:
        martlet.pipeline(task, "org/name")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({"model": None}, ArgumentError, "pipeline: needs a model. Pass model="),
        ({"device": 0, "device_map": "cpu"}, ArgumentError, "takes device or device_map, not both; found 0, 'cpu'."),
        ({"framework": "tf"}, ArgumentError, "framework: must be \"pt\"; found 'tf'."),
        ({"feature_extractor": "a"}, UnsupportedError, "feature_extractor is not supported. Only text is."),
        ({"tokeniser": "a"}, ArgumentError, "does not take the keyword 'tokeniser'. Is 'tokenizer' meant?"),
        ({"dtype": "float32", "model_kwargs": {"dtype": "auto"}}, ArgumentError, "dtype must not come both by itself"),
        ({"tokenizer": 3}, ArgumentError, "tokenizer: must be a tokenizer; found int."),
    ],
)
def test_the_door_refuses_what_it_does_not_know(ours, keywords, kind, message):
    with pytest.raises(kind) as caught:
        martlet.pipeline(**{"model": ours.model, **keywords})
    assert message in str(caught.value)


def test_a_device_that_is_not_there_is_named(ours, folder):
    for model in (str(folder), ours.model):
        with pytest.raises(DeviceError, match=r"must be on this machine; found 'cuda:7'. There is: cpu"):
            martlet.pipeline("text-generation", model, tokenizer=ours.tokenizer, device=7)
    moved = TextGenerationPipeline(model=ours.model, tokenizer=ours.tokenizer, device="cpu", **GREEDY)
    assert moved(PROMPT) == ours(PROMPT, **GREEDY)


def test_errors_among_many_prompts_say_which(ours):
    with pytest.raises(PromptTooLongError) as caught:
        ours([PROMPT, "Once " * 2000], **GREEDY)
    assert caught.value.__notes__ == ["The pipeline was at input 1."]
    with pytest.raises(PromptTooLongError) as caught:
        list(ours(iter([PROMPT, "Once", PROMPT, "Once " * 2000]), batch_size=2, **GREEDY))
    assert caught.value.__notes__ == ["The pipeline was at inputs 2 to 3."]


def test_a_model_of_another_library_is_refused(theirs):
    with pytest.raises(
        ArgumentError, match=r"needs a causal language model of martlet's; found LlamaForCausalLM. Load"
    ):
        martlet.pipeline("text-generation", theirs.model, tokenizer=theirs.tokenizer)


# ---- the package and the scripts


def test_the_room_needs_no_torch_to_be_imported():
    code = (
        "import sys, martlet.pipelines.tasks, martlet.pipelines.text_generation as t; "
        "from martlet.pipelines import pipeline, ReturnType, TextGenerationPipeline, KeyDataset; "
        "assert callable(pipeline) and 'torch' not in sys.modules and 'jinja2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def run_example(name, model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, str(model)])
    runpy.run_path(str(REPOSITORY / "examples" / name), run_name="__main__")
    return capsys.readouterr().out


def test_the_scripts_people_have_run_on_a_folder(folder, monkeypatch, capsys):
    assert run_example("pipeline.py", folder, monkeypatch, capsys).startswith("Once upon a time, a small bird")
    assert run_example("write_email.py", folder, monkeypatch, capsys).startswith("<s>Write an email apologizing")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(REPOSITORY / "examples" / "write_email.py"), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "<|assistant|>" in done.stdout and done.stderr == ""


@pytest.mark.slow
@pytest.mark.downloads
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("smollm2_folder", "I'm here to support you every step of the way."),  # transformers' greedy answer
        ("smollm2_gguf", "I'm sure Sarah has a lot of things to be proud of"),  # blocks by 8-bit inputs tip a near tie
    ],
)
def test_the_scripts_people_have_run_on_a_real_model(kind, answer, request, monkeypatch, capsys):
    model = request.getfixturevalue(kind)
    martlet.set_seed(0)
    story = run_example("pipeline.py", model, monkeypatch, capsys)
    assert story.startswith("Once upon a time, a small bird that never landed") and len(story.split()) > 40
    email = run_example("write_email.py", model, monkeypatch, capsys)
    assert email.split("<|assistant|>")[1].strip().startswith(answer)


@pytest.mark.slow
@pytest.mark.downloads
def test_a_real_model_answers_as_hugging_face(smollm2_folder):
    mine = martlet.pipeline("text-generation", smollm2_folder, dtype="float32")
    reference = transformers.pipeline("text-generation", str(smollm2_folder), device="cpu", dtype="float32")
    prompts = ["The capital of France is", "Once upon a time", "def fibonacci(n):"]
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    for inputs in (prompts, chat):
        want = reference(inputs, do_sample=False, max_new_tokens=24)
        assert mine(inputs, do_sample=False, max_new_tokens=24, batch_size=3) == want
    assert "Paris" in mine(chat, do_sample=False, max_new_tokens=24)[0]["generated_text"][-1]["content"]
