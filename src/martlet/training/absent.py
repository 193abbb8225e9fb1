"""Names of peft's that martlet.training lacks, and what stands in for them."""

from re import fullmatch

# By pattern, the first that fits: what to say.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (r"LoftQConfig",
     "Load the base with quantize='int4', put the adapter on it, and call replace_lora_weights_loftq(model)."),
    (r"(Eva|Corda|LoraGA|Arrow|Kasa|BdLora|Velora|MonteCLoRA)Config|initialize_lora_eva_weights|preprocess_\w+",
     "LoRA begins as LoraConfig's init_lora_weights says: docs/adapters.md lists what there is."),
    (r"(Prefix|Prompt|PTuning|Prompt\w*|CPT|Multitask\w*)\w*(Config|Embedding|Encoder)|PromptLearningConfig",
     "No prompts are learnt: use LoraConfig."),
    (r"AutoPeftModelForSeq2SeqLM|PeftModelForSeq2SeqLM",
     "Use the class that names the task, as AutoPeftModelForCausalLM."),
    (r"PeftMixedModel|[A-Z]\w*(Config|Model|Layer)", "Adapters are LoRA, DoRA and rsLoRA here: use LoraConfig."),
    (r"inject_adapter_in_model", "Use get_peft_model."),
)  # fmt: skip


def explain(name: str) -> str:
    """What to do without a name of peft's that martlet lacks; "" for a name that is not one of them."""
    for pattern, remedy in _REMEDIES:
        if fullmatch(pattern, name):
            return remedy
    return ""
