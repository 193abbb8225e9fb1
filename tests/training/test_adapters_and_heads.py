"""A trainer with adapters and with heads: it learns, and goes on from a checkpoint bit for bit."""

import pytest
import torch

import martlet
from martlet.training import LoraConfig, PeftModel, Trainer, TrainingArguments, get_peft_model

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXTS = [{"input_ids": [3 + (i + j) % 50 for j in range(10)]} for i in range(24)]
LABELLED = [{"input_ids": [5 + i % 2, 7, 8 + i % 3], "labels": i % 2} for i in range(24)]


def arguments(folder, **more):
    given = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "report_to": "none", **more}
    return TrainingArguments(output_dir=str(folder), save_steps=3, logging_steps=1, **given)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    martlet.set_seed(0)
    folder = tmp_path_factory.mktemp("bases")
    llama = martlet.AutoConfig.for_model("llama", **SIZES, num_key_value_heads=2)
    bert = martlet.AutoConfig.for_model("bert", **SIZES, max_position_embeddings=40, pad_token_id=0)
    martlet.AutoModelForCausalLM.from_config(llama, dtype="float32").save_pretrained(folder / "llama")
    martlet.AutoModel.from_config(bert, dtype="float32").save_pretrained(folder / "bert")
    return folder


def test_adapters_resume_bit_for_bit(bases, tmp_path):
    def adapted():
        martlet.set_seed(1)
        base = martlet.AutoModelForCausalLM.from_pretrained(bases / "llama")
        return get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1, use_dora=True))

    whole, resumed = adapted(), adapted()
    Trainer(whole, arguments(tmp_path), train_dataset=TEXTS).train()
    checkpoint = tmp_path / "checkpoint-3"
    Trainer(resumed, arguments(tmp_path), train_dataset=TEXTS).train(resume_from_checkpoint=str(checkpoint))
    fresh = adapted().state_dict()
    for name, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name
        assert torch.equal(fresh[name], weight) == ("lora_" not in name), name
    base = martlet.AutoModelForCausalLM.from_pretrained(bases / "llama")
    read = PeftModel.from_pretrained(base, tmp_path / "checkpoint-6")
    ids = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(read(ids).logits, whole.eval()(ids).logits)


@pytest.mark.parametrize("is_adapted", [False, True])
def test_a_classifier_learns_and_resumes(bases, tmp_path, is_adapted):
    def classifier():
        martlet.set_seed(2)
        model = martlet.AutoModelForSequenceClassification.from_pretrained(bases / "bert", num_labels=2)
        if is_adapted:
            model = get_peft_model(model, LoraConfig(r=4, target_modules=["query", "value"], task_type="SEQ_CLS"))
        return model

    whole, resumed = classifier(), classifier()
    trainer = Trainer(whole, arguments(tmp_path), train_dataset=LABELLED)
    trainer.train()
    Trainer(resumed, arguments(tmp_path), train_dataset=LABELLED).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-3")
    )
    assert all(torch.equal(resumed.state_dict()[name], weight) for name, weight in whole.state_dict().items())
    if not is_adapted:
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert losses[-1] < 0.8 * losses[0]
        again = martlet.AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-6").eval()
        ids = torch.tensor([[5, 7, 8]])
        assert torch.equal(again(ids).logits, whole.eval()(ids).logits)
