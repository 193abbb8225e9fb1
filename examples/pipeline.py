"""Text from the pipeline people call for `transformers`. Usage: python examples/pipeline.py MODEL"""

import sys

from martlet import AutoModelForCausalLM, AutoTokenizer, pipeline

name = sys.argv[1]  # "org/name" on the Hub, a folder, or a .gguf file
model = AutoModelForCausalLM.from_pretrained(name, device_map="cpu", torch_dtype="auto", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(name)
pipe = pipeline(
    task="text-generation",
    model=model,
    tokenizer=tokenizer,
    return_full_text=True,
    max_new_tokens=500,
    do_sample=True,
)
print(pipe("Once upon a time, a small bird that never landed")[0]["generated_text"])
