"""`generate` of a saved tiny Llama, loaded by martlet, against Hugging Face's `generate` of the same files."""

import numpy as np
import pytest

from martlet import generation
from martlet.errors import ArgumentError, UnsupportedError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPTS = [[1, 17, 23, 5, 40, 9], [1, 31, 8]]
ENDS = [2, 7, 19, 33]  # several, so that random text ends


@pytest.fixture(scope="module")
def folder(hf_llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    hf_llama.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    from martlet import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def padded(side="left", prompts=PROMPTS):
    width = max(map(len, prompts))
    rows, mask = [], []
    for prompt in prompts:
        padding = width - len(prompt)
        rows.append([0] * padding + prompt if side == "left" else prompt + [0] * padding)
        mask.append([0] * padding + [1] * len(prompt) if side == "left" else [1] * len(prompt) + [0] * padding)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def both(model, theirs, inputs=None, **fields):
    inputs = padded() if inputs is None else inputs
    return model.generate(**inputs, **fields), theirs.generate(**inputs, **fields)


def same(ours, of_theirs):
    assert isinstance(ours, torch.Tensor) and ours.dtype == torch.int64
    assert ours.tolist() == of_theirs.tolist()


GREEDY = [
    {},
    {"max_new_tokens": 12},
    {"max_length": 15},
    {"max_new_tokens": 12, "eos_token_id": ENDS},
    {"max_new_tokens": 12, "eos_token_id": ENDS, "min_new_tokens": 6},
    {"max_new_tokens": 12, "eos_token_id": ENDS, "min_length": 14},
    {"max_new_tokens": 12, "repetition_penalty": 1.8},
    {"max_new_tokens": 12, "encoder_repetition_penalty": 1.5},
    {"max_new_tokens": 16, "no_repeat_ngram_size": 2},
    {"max_new_tokens": 16, "no_repeat_ngram_size": 1},
    {"max_new_tokens": 12, "encoder_no_repeat_ngram_size": 1},
    {"max_new_tokens": 12, "bad_words_ids": [[n] for n in range(3, 30)] + [[40, 41], [33, 34, 35]]},
    {"max_new_tokens": 12, "sequence_bias": [[[n], 5.0] for n in range(3, 9)] + [[[5, 6], 9.0], [[4, 8], -20.0]]},
    {"max_new_tokens": 12, "sequence_bias": {(3,): 30.0, (3, 4): 50.0, (3, 4, 5): 80.0}},
    {"max_new_tokens": 12, "suppress_tokens": list(range(3, 45))},
    {"max_new_tokens": 12, "begin_suppress_tokens": list(range(3, 55))},
    {"max_new_tokens": 12, "forced_eos_token_id": 2},
    {"max_new_tokens": 12, "forced_eos_token_id": [2, 5]},
    {"max_new_tokens": 12, "eos_token_id": ENDS, "exponential_decay_length_penalty": (2, 1.6)},
    {"max_new_tokens": 12, "renormalize_logits": True, "repetition_penalty": 1.3},
    {"max_new_tokens": 12, "remove_invalid_values": True},
    {"max_new_tokens": 12, "use_cache": False},
    {"max_new_tokens": 12, "eos_token_id": None},
]


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default:UserWarning")
@pytest.mark.parametrize("fields", GREEDY, ids=lambda fields: "-".join(fields) or "defaults")
def test_greedy(model, theirs, fields):
    # padding counts for Hugging Face's lengths and is text to its encoder rules, so those prompts have none
    if fields.keys() & {"max_length", "min_length", "encoder_repetition_penalty", "encoder_no_repeat_ngram_size"}:
        for prompt in PROMPTS:
            same(*both(model, theirs, padded(prompts=[prompt]), **fields))
    else:
        same(*both(model, theirs, **fields))
    each_alone(model, fields)


def each_alone(model, fields, prompts=PROMPTS):
    together = model.generate([*prompts], **fields)
    for place, prompt in enumerate(prompts):
        assert model.generate([prompt], **fields)[0] == together[place]
        assert model.generate(torch.tensor([prompt]), **fields)[0].tolist() == together[place]


def test_forced_bos(model, theirs):
    inputs = {"input_ids": torch.tensor([[1]]), "attention_mask": torch.tensor([[1]])}
    ours, of_theirs = both(model, theirs, inputs, forced_bos_token_id=44, max_new_tokens=4)
    same(ours, of_theirs)
    assert ours[0, 1] == 44
    same(
        *both(
            model, theirs, inputs, forced_bos_token_id=44, begin_suppress_tokens=[44, *range(3, 40)], max_new_tokens=4
        )
    )


BEAMS = [
    {"num_beams": 4},
    {"num_beams": 4, "early_stopping": True},
    {"num_beams": 4, "early_stopping": "never"},
    {"num_beams": 3, "length_penalty": -1.0},
    {"num_beams": 3, "length_penalty": 2.5, "early_stopping": "never"},
    {"num_beams": 3, "length_penalty": 0.0},
    {"num_beams": 4, "num_return_sequences": 3},
    {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True, "length_penalty": 0.3},
    {"num_beams": 3, "repetition_penalty": 1.6, "no_repeat_ngram_size": 2},
    {"num_beams": 3, "bad_words_ids": [[n] for n in range(3, 30)]},
    {"num_beams": 3, "min_new_tokens": 7},
    {"num_beams": 3, "forced_eos_token_id": 2},
    {"num_beams": 3, "exponential_decay_length_penalty": (2, 1.4)},
    {"num_beams": 3, "renormalize_logits": True, "suppress_tokens": list(range(3, 40))},
]


@pytest.mark.parametrize("fields", BEAMS, ids=lambda fields: "-".join(map(str, fields.items())))
def test_beams(model, theirs, fields):
    fields = {
        "pad_token_id": 60,  # Hugging Face takes a 0 for none where it fills up beams
        "max_new_tokens": 10,
        "eos_token_id": ENDS,
        "return_dict_in_generate": True,
        "output_scores": True,
        **fields,
    }
    count = fields.get("num_return_sequences", 1)
    # Hugging Face runs a batch until all its prompts are done, so a prompt is held to it alone
    for prompt in PROMPTS:
        ours, of_theirs = both(model, theirs, padded(prompts=[prompt]), **fields)
        same(ours.sequences, of_theirs.sequences)
        same(ours.beam_indices, of_theirs.beam_indices)
        torch.testing.assert_close(ours.sequences_scores, of_theirs.sequences_scores, rtol=1e-5, atol=1e-5)
        assert len(ours.scores) == len(of_theirs.scores)
        for mine, other in zip(ours.scores, of_theirs.scores, strict=True):
            # a beam that had ended goes on with -1e9 in Hugging Face's search
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
        assert len(ours.finish_reasons) == count and set(ours.finish_reasons) <= {"eos", "length"}
    together = model.generate([*PROMPTS], **{**fields, "return_dict_in_generate": False})
    alone = [
        row for prompt in PROMPTS for row in model.generate([prompt], **{**fields, "return_dict_in_generate": False})
    ]
    assert together == alone


def test_beam_sampling_scores_what_it_chose(model):
    fields = {
        "num_beams": 3,
        "do_sample": True,
        "seed": 5,
        "max_new_tokens": 8,
        "eos_token_id": ENDS,
        "temperature": 0.8,
    }
    output = model.generate(**padded(), **fields, return_dict_in_generate=True, output_scores=True)
    again = model.generate(**padded(), **fields)
    assert output.sequences.tolist() == again.tolist()
    others = [model.generate(**padded(), **{**fields, "seed": seed, "temperature": 2.0}).tolist() for seed in range(4)]
    assert len({str(other) for other in others}) > 1
    assert torch.isfinite(output.sequences_scores).all()


@pytest.mark.parametrize("scale", [1.5, 0.5, 3.0])
def test_guidance(model, theirs, scale):
    inputs = padded(prompts=PROMPTS[:1])
    same(*both(model, theirs, inputs, guidance_scale=scale, max_new_tokens=10))
    negative = torch.tensor([[1, 50, 51]])
    same(*both(model, theirs, inputs, guidance_scale=scale, negative_prompt_ids=negative, max_new_tokens=10))


# What is returned


@pytest.mark.parametrize("fields", [{}, {"repetition_penalty": 1.5}, {"num_beams": 3}])
def test_records(model, theirs, fields):
    flags = dict.fromkeys(
        ("output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate"), True
    )
    inputs = padded(prompts=PROMPTS[:1])
    ours, of_theirs = both(model, theirs, inputs, max_new_tokens=5, eos_token_id=None, **flags, **fields)
    same(ours.sequences, of_theirs.sequences)
    for name in ("scores", "logits"):
        mine, other = getattr(ours, name), getattr(of_theirs, name)
        assert len(mine) == len(other) == 5
        for one, two in zip(mine, other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    for name in ("hidden_states", "attentions"):
        mine, other = getattr(ours, name), getattr(of_theirs, name)
        assert len(mine) == len(other)
        for step, (one, two) in enumerate(zip(mine, other, strict=True)):
            assert len(one) == len(two) == 2 + (name == "hidden_states")
            for layer in range(len(one)):
                assert one[layer].shape == two[layer].shape, (name, step)
                torch.testing.assert_close(one[layer], two[layer], rtol=1e-4, atol=1e-4)
    assert ours["sequences"] is ours.sequences and "scores" in ours and ours.past_key_values is None


def test_records_of_a_padded_batch(model, theirs):
    flags = dict.fromkeys(("output_scores", "output_logits", "output_hidden_states", "return_dict_in_generate"), True)
    ours, of_theirs = both(model, theirs, max_new_tokens=4, eos_token_id=None, **flags)
    for name in ("scores", "logits"):
        for one, two in zip(getattr(ours, name), getattr(of_theirs, name), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    mask = padded()["attention_mask"].bool()
    for step, (one, two) in enumerate(zip(ours.hidden_states, of_theirs.hidden_states, strict=True)):
        for mine, other in zip(one, two, strict=True):
            assert mine.shape == other.shape
            where = mask if step == 0 else torch.ones(2, 1, dtype=torch.bool)
            torch.testing.assert_close(mine[where], other[where], rtol=1e-4, atol=1e-4)


def test_transition_scores(model, theirs):
    flags = {"output_scores": True, "return_dict_in_generate": True, "eos_token_id": ENDS, "max_new_tokens": 6}
    for fields in ({}, {"num_beams": 3}):
        ours, of_theirs = both(model, theirs, padded(prompts=PROMPTS[:1]), **flags, **fields)
        for normalize in (False, True):
            expected = theirs.compute_transition_scores(
                of_theirs.sequences, of_theirs.scores, of_theirs.get("beam_indices"), normalize_logits=normalize
            )
            got = generation.compute_transition_scores(
                ours.sequences, ours.scores, ours.beam_indices, normalize_logits=normalize
            )
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_why_each_row_stopped(model):
    output = model.generate([*PROMPTS], max_new_tokens=[3, 40], eos_token_id=ENDS, return_dict_in_generate=True)
    ends = [row[-1] in ENDS for row in output.sequences]
    assert output.finish_reasons == ["eos" if end else "length" for end in ends]
    assert output.num_new_tokens == [
        len(row) - len(prompt) for row, prompt in zip(output.sequences, PROMPTS, strict=True)
    ]
    assert output.num_new_tokens[0] <= 3


# Drafts


@pytest.mark.parametrize("num_tokens", [1, 3, 10])
def test_prompt_lookup_is_greedy(model, num_tokens):
    prompts = [[1, 5, 6, 7, 8, 5, 6], PROMPTS[1] * 3]
    for fields in ({}, {"repetition_penalty": 1.4}, {"eos_token_id": ENDS}, {"max_matching_ngram_size": 3}):
        plain = {name: value for name, value in fields.items() if name != "max_matching_ngram_size"}
        expected = model.generate(prompts, max_new_tokens=20, **plain)
        assert model.generate(prompts, max_new_tokens=20, prompt_lookup_num_tokens=num_tokens, **fields) == expected


def test_an_assistant_is_greedy(model, theirs, hf_llama, tmp_path):
    from martlet import AutoModelForCausalLM

    torch.manual_seed(3)
    config = transformers.LlamaConfig(**{**hf_llama.config.to_dict(), "num_hidden_layers": 1})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    other = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = model.generate(**padded(), max_new_tokens=20)
    same(expected, theirs.generate(**padded(), max_new_tokens=20))
    for assistant in (other, model):
        for fields in ({}, {"num_assistant_tokens": 3, "num_assistant_tokens_schedule": "heuristic"}):
            same(model.generate(**padded(), assistant_model=assistant, max_new_tokens=20, **fields), expected)
    sampled = {"do_sample": True, "seed": 4, "max_new_tokens": 12}
    same(model.generate(**padded(), assistant_model=other, **sampled), model.generate(**padded(), **sampled))


# Padding


@pytest.mark.parametrize("kind", ["left", "right", "no mask, left", "no mask, right", "lists", "arrays"])
@pytest.mark.parametrize(
    "fields", [{}, {"repetition_penalty": 1.5, "eos_token_id": ENDS}, {"do_sample": True, "seed": [3, 3]}]
)
def test_rows_are_what_they_are_alone(model, kind, fields):
    fields = {"max_new_tokens": 9, **fields}
    alone = []
    for place, prompt in enumerate(PROMPTS):
        own = {name: value[place : place + 1] if name == "seed" else value for name, value in fields.items()}
        alone.append(model.generate([prompt], **own)[0][len(prompt) :])
    side = "right" if "right" in kind else "left"
    inputs = padded(side)
    if kind.startswith("no mask"):
        inputs.pop("attention_mask")
    if kind == "lists":
        rows = model.generate(PROMPTS, **fields)
        assert rows == [prompt + new for prompt, new in zip(PROMPTS, alone, strict=True)]
        return
    if kind == "arrays":
        inputs = {name: value.numpy() for name, value in inputs.items()}
    output = model.generate(**inputs, **fields)
    assert isinstance(output, np.ndarray) == (kind == "arrays")
    width = inputs["input_ids"].shape[1]
    assert output[:, :width].tolist() == inputs["input_ids"].tolist()
    for row, new in zip(output[:, width:].tolist(), alone, strict=True):
        assert row[: len(new)] == new and set(row[len(new) :]) <= {0}


def test_left_padding_is_hugging_faces(model, theirs):
    prompts = [PROMPTS[0], PROMPTS[1], [1]]
    same(*both(model, theirs, padded(prompts=prompts), max_new_tokens=12, eos_token_id=ENDS))


# The callers' own


def test_allowed_tokens(model, theirs):
    def allowed(row, ids):
        assert isinstance(ids, torch.Tensor) and ids.ndim == 1
        return [4 + row, 9, int(ids[-1]) % 50 + 3]

    fields = {"prefix_allowed_tokens_fn": allowed, "max_new_tokens": 8}
    for prompt in PROMPTS:
        same(*both(model, theirs, padded(prompts=[prompt]), **fields))
        same(*both(model, theirs, padded(prompts=[prompt]), **fields, num_beams=3))
    same(*both(model, theirs, **fields))


class Favour(generation.LogitsProcessor):
    """A processor as people write them."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[torch.arange(len(scores)), (input_ids[:, -1] * 7 + 3) % scores.shape[-1]] += 12.0
        return scores


class TheirFavour(transformers.LogitsProcessor):
    __call__ = Favour.__call__


def test_processors_of_the_callers(model, theirs):
    for ours, of_theirs in (
        ([Favour()], [TheirFavour()]),
        ([TheirFavour()], [TheirFavour()]),
        (generation.LogitsProcessorList([Favour(), generation.SuppressTokensLogitsProcessor(list(range(3, 30)))]),
         [TheirFavour(), transformers.SuppressTokensLogitsProcessor(list(range(3, 30)))]),
        ([generation.RepetitionPenaltyLogitsProcessor(3.0)], [transformers.RepetitionPenaltyLogitsProcessor(3.0)]),
    ):  # fmt: skip
        for fields in ({}, {"num_beams": 3}):
            mine = model.generate(**padded(prompts=PROMPTS[:1]), logits_processor=ours, max_new_tokens=9, **fields)
            other = theirs.generate(
                **padded(prompts=PROMPTS[:1]),
                logits_processor=transformers.LogitsProcessorList(of_theirs),
                max_new_tokens=9,
                **fields,
            )
            same(mine, other)


def test_criteria_of_the_callers(model, theirs):
    class Ends(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.isin(input_ids[:, -1], torch.tensor(ENDS))

    for criteria in ([Ends()], [transformers.MaxLengthCriteria(9)], [transformers.EosTokenCriteria(ENDS)]):
        fields = {"stopping_criteria": transformers.StoppingCriteriaList(criteria), "max_new_tokens": 12}
        same(*both(model, theirs, padded(prompts=PROMPTS[:1]), **fields))
    ours = model.generate(**padded(), stopping_criteria=[Ends()], max_new_tokens=12, return_dict_in_generate=True)
    same(ours.sequences, theirs.generate(**padded(), stopping_criteria=[Ends()], max_new_tokens=12))
    assert set(ours.finish_reasons) <= {"criteria", "length"}


def test_stop_strings(model, theirs, tokenizer, hf_tokenizer):
    ids = model.generate([PROMPTS[0]], max_new_tokens=10, eos_token_id=None)[0]
    piece = tokenizer.decode(ids[len(PROMPTS[0]) + 3 : len(PROMPTS[0]) + 5])
    assert len(piece) > 1
    fields = {"stop_strings": [piece], "max_new_tokens": 10, "eos_token_id": None}
    ours = model.generate(**padded(prompts=PROMPTS[:1]), **fields, tokenizer=tokenizer, return_dict_in_generate=True)
    same(ours.sequences, theirs.generate(**padded(prompts=PROMPTS[:1]), **fields, tokenizer=hf_tokenizer))
    assert ours.finish_reasons == ["stop_string"] and ours.num_new_tokens[0] <= 5


def test_values_a_row(model):
    fields = {
        "do_sample": True,
        "max_new_tokens": [4, 9],
        "temperature": [0.3, 1.4],
        "seed": [11, 12],
        "top_k": [3, 50],
    }
    together = model.generate(PROMPTS, **fields)
    for place, prompt in enumerate(PROMPTS):
        own = {name: value[place] if isinstance(value, list) else value for name, value in fields.items()}
        assert model.generate([prompt], **own)[0] == together[place]
    assert [len(row) - len(prompt) for row, prompt in zip(together, PROMPTS, strict=True)] == [4, 9]
    mixed = model.generate(PROMPTS, do_sample=[False, True], seed=5, max_new_tokens=6)
    assert mixed[0] == model.generate([PROMPTS[0]], max_new_tokens=6)[0]


def test_sampling_follows_the_temperature_and_the_seed(model):
    fields = {"do_sample": True, "max_new_tokens": 6, "num_return_sequences": 8}
    first = model.generate(torch.tensor(PROMPTS[:1]), seed=1, **fields)
    assert first.shape[0] == 8 and len({tuple(row) for row in first.tolist()}) > 1
    assert torch.equal(first, model.generate(torch.tensor(PROMPTS[:1]), seed=1, **fields))
    cold = model.generate(torch.tensor(PROMPTS[:1]), temperature=1e-4, **fields)
    greedy = model.generate(torch.tensor(PROMPTS[:1]), max_new_tokens=6)
    assert all(torch.equal(row, greedy[0]) for row in cold)
    generation.set_seed(9)
    once = model.generate(torch.tensor(PROMPTS[:1]), **fields)
    generation.set_seed(9)
    assert torch.equal(once, model.generate(torch.tensor(PROMPTS[:1]), **fields))


# Every field of Hugging Face's


def test_every_field_of_hugging_faces_is_taken_or_named(model):
    asking = {"prompt_lookup_num_tokens": 2, "num_return_sequences": 1}
    for name, value in transformers.GenerationConfig().to_dict().items():
        model.generate([[1, 5]], max_new_tokens=1, **({} if name == "max_new_tokens" else {name: value}))
    for name, default in transformers.GenerationConfig._get_default_generation_params().items():
        fields = {"max_new_tokens": 1, name: asking.get(name, default)}
        try:
            model.generate([[1, 5]], **fields)
        except UnsupportedError as error:
            assert name in str(error)
    with pytest.raises(ArgumentError, match=r"there is no field 'max_newtokens'. Did you mean max_new_tokens"):
        model.generate([[1, 5]], max_newtokens=3)


def test_hugging_faces_config_object(model, theirs):
    config = transformers.GenerationConfig(max_new_tokens=7, repetition_penalty=1.4, eos_token_id=ENDS, pad_token_id=0)
    same(*both(model, theirs, generation_config=config))
    ours = generation.GenerationConfig(max_new_tokens=7, repetition_penalty=1.4, eos_token_id=ENDS, pad_token_id=0)
    same(model.generate(**padded(), generation_config=ours), theirs.generate(**padded(), generation_config=config))
    same(*both(model, theirs, generation_config=config, max_new_tokens=3))


def test_the_models_own_config_is_what_applies(folder, tmp_path):
    import shutil

    from martlet import AutoModelForCausalLM

    own = tmp_path / "own"
    shutil.copytree(folder, own)
    transformers.GenerationConfig(max_new_tokens=3, eos_token_id=2, pad_token_id=0).save_pretrained(own)
    model = AutoModelForCausalLM.from_pretrained(own)
    assert model.generation_config.origin("max_new_tokens") == "generation_config.json"
    assert len(model.generate([[1, 5]])[0]) <= 5
    model.generation_config.max_new_tokens = 1
    assert len(model.generate([[1, 5]])[0]) == 3
