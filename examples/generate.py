"""The script people have for `transformers`, with one import changed. Usage: python examples/generate.py MODEL"""

import sys

from martlet import AutoModelForCausalLM, AutoTokenizer

name = sys.argv[1]  # "org/name" on the Hub, a folder, or a .gguf file
model = AutoModelForCausalLM.from_pretrained(name, device_map="cpu", torch_dtype="auto", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(name)

messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))
