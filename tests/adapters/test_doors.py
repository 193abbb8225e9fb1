"""An adapter's folder where a model's is asked for: from_pretrained, pipelines; what generates where afterwards."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import martlet
from martlet.training import LoraConfig, get_peft_model

WORDS = ("[PAD]", "[UNK]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran")
SIZES = dict(
    vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.5, pad_token_id=0, eos_token_id=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    martlet.set_seed(0)
    config = martlet.AutoConfig.for_model("llama", **SIZES)
    martlet.AutoModelForCausalLM.from_config(config, dtype="float32").save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    return folder


def adapted(base, folder, door="AutoModelForCausalLM", config=None, **keywords):
    model = getattr(martlet, door).from_pretrained(base, **keywords)
    settings = {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    model = get_peft_model(model, LoraConfig(**settings | (config or {}))).eval()
    model.save_pretrained(folder)
    return model


def ids():
    return torch.tensor([[2, 3, 4, 5], [6, 8, 9, 5]])


def test_a_pipeline_of_an_adapters_folder(base, tmp_path):
    model = adapted(base, tmp_path)
    want = model.generate(ids()[:1], max_new_tokens=5, do_sample=False)[0, 4:].tolist()
    maker = martlet.pipeline("text-generation", model=str(tmp_path))
    made = maker("the cat sat on", max_new_tokens=5, do_sample=False, return_full_text=False)
    assert made[0]["generated_text"].split() == [WORDS[each] for each in want]
    plain = martlet.pipeline("text-generation", model=str(base))
    assert plain("the cat sat on", max_new_tokens=5, do_sample=False, return_full_text=False) != made
    own = martlet.AutoTokenizer.from_pretrained(base)
    own.save_pretrained(tmp_path)  # as the trainer leaves it
    again = martlet.pipeline("text-generation", model=str(tmp_path))
    assert again("the cat sat on", max_new_tokens=5, do_sample=False, return_full_text=False) == made


def test_a_classifier_of_an_adapters_folder(base, tmp_path):
    labels = {"num_labels": 3}
    door = "AutoModelForSequenceClassification"
    model = adapted(base, tmp_path, door, {"task_type": "SEQ_CLS"}, **labels)
    read = martlet.AutoModelForSequenceClassification.from_pretrained(tmp_path, **labels)
    with torch.no_grad():
        want = model(ids()).logits
        assert torch.equal(read(ids()).logits, want)
    teller = martlet.pipeline("text-classification", model=str(tmp_path), model_kwargs=labels)
    told = teller("the cat sat on", top_k=None)
    assert {each["label"]: pytest.approx(each["score"], abs=1e-5) for each in told} == {
        f"LABEL_{place}": each for place, each in enumerate(want[0].softmax(0).tolist())
    }


def test_a_folders_model_generates_on_the_engine_once_merged(base, tmp_path):
    pytest.importorskip("martlet.engine._native")
    adapted(base, tmp_path)
    model = martlet.AutoModelForCausalLM.from_pretrained(tmp_path)
    want = model.generate(ids(), max_new_tokens=5, do_sample=False).tolist()
    assert "LoraLinear" in model.generates_on
    merged = model.merge_and_unload()
    assert merged.generates_on == "native"
    assert merged.generate(ids(), max_new_tokens=5, do_sample=False).tolist() == want
    model = martlet.AutoModelForCausalLM.from_pretrained(tmp_path)
    plain = martlet.AutoModelForCausalLM.from_pretrained(base).generate(ids(), max_new_tokens=5, do_sample=False)
    whole = model.unload()
    assert whole.generates_on == "native" and plain.tolist() != want
    assert whole.generate(ids(), max_new_tokens=5, do_sample=False).tolist() == plain.tolist()
