"""From a Hub id to a model, and again without the Hub."""

import pytest
import tokenizers
import torch
import transformers

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CODE = """
import martlet
keywords = {keywords!r}
name = "org/tiny"
config = martlet.AutoConfig.from_pretrained(name, **keywords)
tokenizer = martlet.AutoTokenizer.from_pretrained(name, **keywords)
model = martlet.AutoModelForCausalLM.from_pretrained(name, **keywords)
ids = tokenizer("abc", return_tensors="pt").input_ids
made = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
answer([config.model_type, ids.tolist(), made.tolist(), sorted(tokenizer.chat_template)])
"""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))


def write(model, folder, form):
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if form == "sharded" else {}))
    if form == "bin":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    vocab = {chr(97 + i): i for i in range(26)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "loud.jinja").write_text("{{ messages[0].content | upper }}")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


@pytest.mark.parametrize("form", ["one file", "sharded", "bin", "subfolder", "revision"])
def test_from_a_hub_id_then_offline(hub, client, model, tmp_path, form):
    write(model, tmp_path / "model", form)
    prefix = "inner/" if form == "subfolder" else ""
    top = tmp_path / "model"
    files = {prefix + str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
    hub.put("org/tiny", files, branch="v2" if form == "revision" else "main")
    keywords = {"subfolder": {"subfolder": "inner"}, "revision": {"revision": "v2"}}.get(form, {})
    got = client(CODE.format(keywords=keywords))
    ids = torch.tensor([[0, 1, 2]])
    want = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert got == ["llama", ids.tolist(), want.tolist(), ["default", "loud"]]
    hub.requests.clear()
    assert client(CODE.format(keywords=keywords)) == got
    assert hub.requests == []
    hub.stop()
    assert client(CODE.format(keywords=keywords), HF_HUB_OFFLINE="1") == got
