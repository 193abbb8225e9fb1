"""Twenty tokens after a prompt, by `generate` itself. Usage: python examples/write_email.py MODEL"""

import sys

from martlet import AutoModelForCausalLM, AutoTokenizer

name = sys.argv[1]  # "org/name" on the Hub, a folder, or a .gguf file
model = AutoModelForCausalLM.from_pretrained(name, device_map="cpu", torch_dtype="auto", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(name)

prompt = "Write an email apologizing to Sarah for the tragic gardening mishap. Explain how it happened.<|assistant|>"
input_ids = tokenizer(prompt, return_tensors="pt").input_ids.to("cpu")
output = model.generate(input_ids=input_ids, max_new_tokens=20)
print(tokenizer.decode(output[0]))
