"""What scripts read and edit around a model, a tokenizer and a config: each line gives what transformers gives."""

import copy
import os
from pathlib import Path

import pytest
import torch
import transformers
from chat_model import save_chat_model

import martlet
from martlet.errors import ArgumentError

PROMPTS = ["Once upon a time", "The martlet is", "What is the capital of France?"]


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("surface") / "tiny"
    save_chat_model(path)
    return path


def both(folder, ask):
    """What `ask(library, model, tokenizer, folder)` gives for each library, as plain values."""
    answers = []
    for library in (transformers, martlet):
        torch.manual_seed(0)
        model = library.AutoModelForCausalLM.from_pretrained(folder)
        answers.append(plain(ask(library, model, library.AutoTokenizer.from_pretrained(folder), folder)))
    return answers


def plain(value):
    if isinstance(value, torch.Tensor):
        return [list(value.shape), str(value.dtype), value.detach().double().flatten()]
    if hasattr(value, "keys"):
        return {key: plain(value[key]) for key in value.keys()}  # noqa: SIM118
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def check(theirs, ours):
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)
    elif isinstance(theirs, list):
        assert len(theirs) == len(ours)
        for one, other in zip(theirs, ours, strict=True):
            check(one, other)
    elif isinstance(theirs, dict):
        assert theirs.keys() == ours.keys()
        for key in theirs:
            check(theirs[key], ours[key])
    else:
        assert ours == theirs


MODEL = {
    "sizes": lambda L, m, t, f: [
        m.num_parameters(),
        m.num_parameters(only_trainable=True),
        m.num_parameters(exclude_embeddings=True),
        m.get_input_embeddings().weight.shape,
        m.get_output_embeddings().weight.shape,
        len(m.model.layers),
        m.model.layers[0].self_attn.q_proj.weight.shape,
    ],
    "frozen": lambda L, m, t, f: [m.requires_grad_(False) is m, m.num_parameters(only_trainable=True)],
    "footprint": lambda L, m, t, f: m.get_memory_footprint() >= 41120 * 4 - 64,
    "places": lambda L, m, t, f: [str(m.device), str(m.dtype), m.training, m.eval() is m, m.to("cpu") is m],
    "parts": lambda L, m, t, f: [
        m.get_decoder() is m.model,
        m.base_model is m.model,
        m.base_model_prefix,
        m.main_input_name,
        m.can_generate(),
        m.name_or_path,
        sorted(m.state_dict()),
    ],
    "config": lambda L, m, t, f: [
        m.config.hidden_size,
        m.config.vocab_size,
        m.config.use_cache,
        m.config.output_hidden_states,
        m.config.use_return_dict,
        m.config.is_encoder_decoder,
        m.config._name_or_path,
        m.config.rope_scaling,
        m.config.get_text_config().hidden_size,
        getattr(m.config, "no_such_key", 5),
        copy.deepcopy(m.config).num_hidden_layers,
    ],
    "config edits": lambda L, m, t, f: [
        m.config.update({"hidden_size": 64}),
        m.config.hidden_size,
        copy.deepcopy(m.config).hidden_size,
    ],
    "dtypes": lambda L, m, t, f: [str(m.bfloat16().dtype), str(m.half().dtype), str(m.float().dtype)],
    "checkpointing": lambda L, m, t, f: [
        m.is_gradient_checkpointing,
        m.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False}),
        m.is_gradient_checkpointing,
        m.gradient_checkpointing_disable(),
        m.is_gradient_checkpointing,
    ],
    "a batch": lambda L, m, t, f: batch(m, t),
    "a loop with its cache": lambda L, m, t, f: loop(m, t, None),
    "a loop with a cache of its own": lambda L, m, t, f: loop(m, t, L.DynamicCache()),
    "a loop with the cache's newer name": lambda L, m, t, f: newer_loop(m, t),
    "a step of training": lambda L, m, t, f: train(m, t),
    "more tokens": lambda L, m, t, f: grow(L, m, t, f),
    "fewer tokens": lambda L, m, t, f: [m.resize_token_embeddings(300).weight, m.lm_head.weight, m.config.vocab_size],
    "rounded up": lambda L, m, t, f: [m.resize_token_embeddings(401, pad_to_multiple_of=64).weight.shape],
    "transition scores": lambda L, m, t, f: transitions(m, t),
    "beam scores": lambda L, m, t, f: transitions(m, t, num_beams=3, num_return_sequences=2),
    "edits of the generation config": lambda L, m, t, f: edit_generation(L, m, t),
}
TOKENIZER = {
    "lengths": lambda L, m, t, f: [t.vocab_size, len(t), t.max_len_single_sentence, t.model_max_length],
    "pad is eos": lambda L, m, t, f: pad(t),
    "new tokens": lambda L, m, t, f: [
        t.add_special_tokens({"pad_token": "[PAD]"}),
        t.add_tokens(["foo", "bar"]),
        len(t),
        t.pad_token_id,
        t.encode("a foo b"),
        t.convert_tokens_to_ids("foo"),
    ],
    "a batch's ways": lambda L, m, t, f: [
        sorted(t("a").keys()),
        {**t("a")},
        t("a b", return_tensors="pt").to("cpu")["input_ids"],
        t("a b", return_tensors="pt").input_ids.shape,
        isinstance(t("a"), L.BatchEncoding),
        t(["a", "b c"], padding=True, padding_side="left"),
    ],
    "an added token": lambda L, m, t, f: [t.add_tokens(L.AddedToken("<new>", lstrip=True)), t.encode("a <new>")],
    "template edits": lambda L, m, t, f: chat(t),
}


def batch(model, tokenizer):
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    inputs = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return [output, tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)]


def loop(model, tokenizer, past):
    """Greedy, a token at a time, the keys and values handed on, as courses teach it."""
    ids = tokenizer("Once upon a", return_tensors="pt").input_ids
    chosen = []
    with torch.no_grad():
        for _ in range(5):
            outputs = model(ids, past_key_values=past)
            past = outputs.past_key_values
            ids = outputs.logits[:, -1].argmax(-1, keepdim=True)
            chosen.append(ids.item())
    return [chosen, past.get_seq_length(), len(past), outputs.logits]


def newer_loop(model, tokenizer):
    ids = tokenizer("Once upon a", return_tensors="pt").input_ids
    with torch.no_grad():
        first = model(ids, use_cache=True)
        then = model(ids[:, :2], cache=first.cache, return_dict=False)
    return [then[0], first.cache.get_seq_length()]


def train(model, tokenizer):
    model.train()
    model.enable_input_require_grads()
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss = model(ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    model.eval()
    return [loss, model(ids, labels=ids).loss, model.generate(ids, max_new_tokens=4, do_sample=False)]


def grow(library, model, tokenizer, folder):
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    table = model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    logits = model(**tokenizer(PROMPTS, padding=True, return_tensors="pt")).logits
    saved = Path(folder).parent / f"grown-{library.__name__}"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    again = transformers.AutoModelForCausalLM.from_pretrained(saved)
    return [
        len(tokenizer),
        table.weight.shape,
        model.get_input_embeddings() is table,
        model.config.vocab_size,
        logits.shape,
        again.config.vocab_size,
        torch.equal(again.get_input_embeddings().weight, table.weight),
        again.get_output_embeddings().weight[:400],
    ]


def transitions(model, tokenizer, **keywords):
    inputs = tokenizer("Once upon a", return_tensors="pt")
    out = model.generate(
        **inputs, max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_scores=True, **keywords
    )
    beams = out.beam_indices if keywords else None
    return [
        model.compute_transition_scores(out.sequences, out.scores, beams, normalize_logits=True),
        out["sequences"],
        out[0],
        len(out.scores),
    ]


def edit_generation(library, model, tokenizer):
    inputs = tokenizer("Once upon a", return_tensors="pt")
    model.generation_config.max_new_tokens = 4
    model.generation_config.do_sample = False
    model.generation_config.temperature = None
    model.generation_config.pad_token_id = tokenizer.eos_token_id
    first = model.generate(**inputs)
    model.generation_config = library.GenerationConfig(max_new_tokens=2, pad_token_id=0)
    model.generation_config.validate()
    return [first, model.generate(**inputs), model.generate(inputs["input_ids"], model.generation_config)]


def pad(tokenizer):
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    return [tokenizer(PROMPTS, padding=True, return_tensors="pt"), tokenizer.pad_token_id, tokenizer.special_tokens_map]


def chat(tokenizer):
    messages = [{"role": "user", "content": "Hi"}]
    tokenizer.chat_template = "{% for m in messages %}[{{m.role}}]{{m.content}}{% endfor %}"
    return [tokenizer.apply_chat_template(messages, tokenize=False), tokenizer.apply_chat_template(messages)]


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")  # transformers', of names that scripts have
@pytest.mark.parametrize("what", [*MODEL, *TOKENIZER])
def test_as_transformers(chat_folder, what):
    check(*both(chat_folder, {**MODEL, **TOKENIZER}[what]))


def test_new_rows_begin_as_the_mean(chat_folder):
    model = martlet.AutoModelForCausalLM.from_pretrained(chat_folder)
    tables = {"model.embed_tokens": model.get_input_embeddings(), "lm_head": model.get_output_embeddings()}
    means = {name: table.weight.mean(0) for name, table in tables.items()}
    model.resize_token_embeddings(403)
    for name, mean in means.items():
        new = model.get_submodule(name).weight[400:]
        assert new.requires_grad and torch.allclose(new, mean.expand_as(new))
    assert model.arch.vocab_size == model.model.arch.vocab_size == 403
    assert len(model.generate([[1, 402]], max_new_tokens=3, min_new_tokens=3)[0]) == 5
    with pytest.raises(ArgumentError, match=r"new_num_tokens.*at least 1; found 0"):
        model.resize_token_embeddings(0)
    with pytest.raises(ArgumentError, match=r"pad_to_multiple_of.*at least 1"):
        model.resize_token_embeddings(5, pad_to_multiple_of=0)
    with pytest.raises(ArgumentError, match="may hold use_reentrant; found reentrant"):
        model.gradient_checkpointing_enable({"reentrant": True})


def test_no_cache_is_kept_in_training_or_where_the_config_says_no(chat_folder):
    model = martlet.AutoModelForCausalLM.from_pretrained(chat_folder)
    ids = torch.tensor([[3, 4, 5]])
    assert model(ids).past_key_values is not None and model(ids, use_cache=False).past_key_values is None
    assert model.train()(ids).past_key_values is None
    model.eval().config.use_cache = False
    assert model(ids).past_key_values is None and model(ids, use_cache=True).past_key_values is not None


def test_keys_and_values_by_layer(chat_folder):
    caches = []
    for library in (transformers, martlet):
        model = library.AutoModelForCausalLM.from_pretrained(chat_folder)
        with torch.no_grad():
            caches.append(model(torch.tensor([[3, 4, 5], [6, 7, 8]])).past_key_values)
    theirs, ours = caches
    assert len(list(ours)) == len(theirs) == 2
    for layer, (keys, values) in enumerate(ours):
        torch.testing.assert_close(keys, theirs.layers[layer].keys)
        torch.testing.assert_close(values, theirs.layers[layer].values)
    with pytest.raises(IndexError):
        martlet.DynamicCache()[0]


def test_older_names(chat_folder):
    tokenizer = martlet.AutoTokenizer.from_pretrained(chat_folder)
    assert tokenizer.encode_plus("a b") == tokenizer("a b")
    assert tokenizer.batch_encode_plus(["a", "b c"], padding=True) == tokenizer(["a", "b c"], padding=True)
    config = martlet.AutoConfig.from_pretrained(chat_folder)
    assert config.torch_dtype == config.dtype == "float32" and config.name_or_path == os.fspath(chat_folder)
    config.torch_dtype = "bfloat16"
    assert config.torch_dtype == "bfloat16"


def test_how_much_is_said(caplog):
    import logging as python_logging

    from martlet import logging

    before = python_logging.getLogger("martlet").level
    try:
        for name, level in (("error", 40), ("warning", 30), ("info", 20), ("debug", 10)):
            getattr(logging, f"set_verbosity_{name}")()
            assert logging.get_verbosity() == level and logging.get_logger("martlet.x").isEnabledFor(level)
    finally:
        python_logging.getLogger("martlet").setLevel(before)


def test_rules_of_generation_have_their_names_where_scripts_import_them():
    """Every logits processor and stopping criterion that transformers has at its top and we have at all."""
    import martlet.generation

    ends = ("LogitsProcessor", "LogitsWarper", "LogitsProcessorList", "Criteria", "CriteriaList")
    names = [name for name in dir(transformers) if name.endswith(ends) and hasattr(martlet.generation, name)]
    assert len(names) >= 29
    for name in names:
        assert getattr(martlet, name) is getattr(martlet.generation, name)


def test_what_joins_tokens_is_in_reach(chat_folder):
    ours, theirs = (library.AutoTokenizer.from_pretrained(chat_folder) for library in (martlet, transformers))
    tokens = ours.tokenize("Once upon a time")
    assert ours.decoder.decode(tokens) == theirs.decoder.decode(tokens) == "Once upon a time"
