"""A process that runs one engine: a JSON object a line in, one out. Run as a file, by the interpreter the engine is in.

It imports nothing of martlet's but for martlet itself. `load` gives {"loaded": ...}; `generate` {"first_s", "total_s",
"new_tokens"}; `logits` writes float32 (tokens, vocabulary) to a file; an error is {"error": text}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from typing import Any


class Martlet:
    """Our engine, through `generate` as users call it."""

    def load(self, model: str, threads: int, context: int, rows: int, options: dict[str, Any]) -> dict[str, Any]:
        from martlet import __version__
        from martlet.auto import AutoModelForCausalLM
        from martlet.generation import GenerationConfig

        names = ("quantize", "isa", "kv_cache_dtype", "kv_cache_bytes")
        keywords = {key: options[key] for key in names if options.get(key) is not None}
        self.model = AutoModelForCausalLM.from_pretrained(model, backend="native", num_threads=threads, **keywords)
        self.model.generation_config = GenerationConfig()  # a model's own penalties are not what is measured
        engine = self.model.engine
        return {
            "version": __version__,
            "isa": engine.isa,
            "num_threads": engine.num_threads,
            "kinds": dict(engine.kinds),
            "kv_cache_dtype": engine.kv_cache_dtype,
            "packed_bytes": engine.packed_bytes,
        }

    def generate(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Seconds to the first token, of the last row to have one where there are several."""
        began, seen = time.perf_counter(), _Clock()
        self.model.generate(
            prompts,
            max_new_tokens=new_tokens,
            min_new_tokens=0,
            do_sample=False,
            eos_token_id=-1,
            streamer=seen if len(prompts) == 1 else None,
        )
        return seen.first_s - began if seen.first_s else 0.0

    def logits(self, ids: list[int]) -> Any:
        session = self.model.open_session()
        try:
            return session.step([(session.add(), ids)], logits="all").logits
        finally:
            session.close()


class _Clock:
    """A streamer that notes when the first new token came."""

    def __init__(self) -> None:
        self.calls, self.first_s = 0, 0.0

    def put(self, value: Any) -> None:
        self.calls += 1
        if self.calls == 2:  # the first call hands over the prompt
            self.first_s = time.perf_counter()

    def end(self) -> None:
        pass

    def step(self, result: Any) -> bool:
        """A callback for each new token, that ends nothing."""
        if not self.first_s:
            self.first_s = time.perf_counter()
        return False


class LlamaCpp:
    """llama.cpp through llama-cpp-python's C interface: no Python work a token but the call."""

    context: Any
    batch_size: int

    def load(self, model: str, threads: int, context: int, rows: int, options: dict[str, Any]) -> dict[str, Any]:
        import llama_cpp as lib

        self.lib, self.path, self.threads, self.options = lib, model, threads, options
        self.silence = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self.silence, None)
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = lib.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.context, self.shape = None, (0, 0)
        self.sampler = lib.llama_sampler_init_greedy()
        self._open(context, rows)
        return {"version": lib.__version__}

    def _open(self, context: int, rows: int) -> None:
        """A context for `rows` sequences of `context` tokens; kept while it is large enough."""
        lib = self.lib
        if self.context is not None:
            if rows == self.shape[1] and context <= self.shape[0]:
                return
            lib.llama_free(self.context)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = context * rows, rows
        params.n_batch = max(2048, context)
        params.n_ubatch = int(self.options.get("ubatch", 512))
        params.n_threads = params.n_threads_batch = self.threads
        wants_flash = bool(self.options.get("flash_attention"))
        if hasattr(params, "flash_attn_type"):
            params.flash_attn_type = 1 if wants_flash else 0
        else:
            params.flash_attn = wants_flash
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.batch_size = params.n_batch
        self.shape = (context, rows)

    def _decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """(token, position, sequence, whether its logits are wanted) for each."""
        lib = self.lib
        for begin in range(0, len(tokens), self.batch_size):
            part = tokens[begin : begin + self.batch_size]
            batch = lib.llama_batch_init(len(part), 0, 1)
            try:
                batch.n_tokens = len(part)
                for i, (token, position, sequence, wanted) in enumerate(part):
                    batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
                    batch.seq_id[i][0], batch.logits[i] = sequence, wanted
                status = lib.llama_decode(self.context, batch)
            finally:
                lib.llama_batch_free(batch)
            if status:
                raise RuntimeError(f"llama_decode gave {status}")

    def generate(self, prompts: list[list[int]], new_tokens: int) -> float:
        lib = self.lib
        longest = max(map(len, prompts)) + new_tokens
        self._open(-(-longest // 256) * 256, len(prompts))
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        began = time.perf_counter()
        following: list[int] = []
        if sum(map(len, prompts)) <= self.batch_size:
            tokens = [
                (token, place, row, place == len(prompt) - 1)
                for row, prompt in enumerate(prompts)
                for place, token in enumerate(prompt)
            ]
            self._decode(tokens)
            ends = [i for i, each in enumerate(tokens) if each[3]]
            following = [lib.llama_sampler_sample(self.sampler, self.context, end) for end in ends]
        else:
            for row, prompt in enumerate(prompts):
                self._decode([(token, place, row, place == len(prompt) - 1) for place, token in enumerate(prompt)])
                following.append(lib.llama_sampler_sample(self.sampler, self.context, -1))
        first_s = time.perf_counter() - began
        for step in range(new_tokens - 1):
            self._decode([(token, len(prompts[row]) + step, row, True) for row, token in enumerate(following)])
            following = [lib.llama_sampler_sample(self.sampler, self.context, row) for row in range(len(prompts))]
        return first_s

    def logits(self, ids: list[int]) -> Any:
        import numpy as np

        lib = self.lib
        self._open(-(-len(ids) // 256) * 256, 1)
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        self._decode([(token, place, 0, True) for place, token in enumerate(ids)])
        found = np.ctypeslib.as_array(lib.llama_get_logits(self.context), (len(ids), self.vocab_size))
        return np.array(found, np.float32)


class Transformers:
    """Hugging Face transformers on the CPU: padded `generate`, in bfloat16 unless told otherwise."""

    def load(self, model: str, threads: int, context: int, rows: int, options: dict[str, Any]) -> dict[str, Any]:
        import torch
        import transformers

        self.torch, library = torch, _untyped(transformers)
        torch.set_num_threads(threads)
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()
        folder, _, name = model.rpartition("/")
        place = {"gguf_file": name} if name.endswith(".gguf") else {}
        self.model = library.AutoModelForCausalLM.from_pretrained(
            (folder or ".") if place else model, dtype=getattr(torch, options.get("dtype", "bfloat16")), **place
        ).eval()
        return {"version": transformers.__version__}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> float:
        torch, longest = self.torch, max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        began, seen = time.perf_counter(), _Clock()
        with torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=0,
                streamer=seen if len(prompts) == 1 else None,
            )
        return seen.first_s - began if seen.first_s else 0.0

    def logits(self, ids: list[int]) -> Any:
        with self.torch.inference_mode():
            return self.model(self.torch.tensor([ids])).logits[0].float().numpy()


class CTranslate2:
    """CTranslate2, through `generate_batch`; a Hugging Face folder is converted first, by its own converter."""

    def load(self, model: str, threads: int, context: int, rows: int, options: dict[str, Any]) -> dict[str, Any]:
        import ctranslate2 as library

        self.scratch = tempfile.TemporaryDirectory()
        path = options.get("converted") or os.path.join(self.scratch.name, "model")
        if not os.path.isfile(os.path.join(path, "model.bin")):
            from ctranslate2.converters import TransformersConverter

            TransformersConverter(model).convert(path, force=True)
        with open(os.path.join(path, "vocabulary.json"), encoding="utf-8") as file:
            self.names = json.load(file)  # prompts are named tokens
        # prompts of unlike lengths together are fed token by token: one to a thread took a third of the time
        self.model = library.Generator(
            path,
            compute_type=options.get("compute_type", "int8"),
            inter_threads=threads if rows > 1 else 1,
            intra_threads=1 if rows > 1 else threads,
        )
        return {"version": library.__version__, "compute_type": self.model.compute_type}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> float:
        seen = _Clock()
        began = time.perf_counter()
        done = self.model.generate_batch(
            [[self.names[token] for token in prompt] for prompt in prompts],
            max_length=new_tokens,
            min_length=new_tokens,
            include_prompt_in_result=False,
            max_batch_size=1,
            sampling_topk=1,
            callback=seen.step if len(prompts) == 1 else None,
        )
        _check_lengths([len(each.sequences_ids[0]) for each in done], new_tokens)
        return seen.first_s - began if seen.first_s else 0.0

    def logits(self, ids: list[int]) -> Any:
        import numpy as np

        return np.array(self.model.forward_batch([ids]), np.float32)[0]


class OpenVino:
    """OpenVINO GenAI, on the GGUF file itself or on a folder exported for it."""

    def load(self, model: str, threads: int, context: int, rows: int, options: dict[str, Any]) -> dict[str, Any]:
        import openvino
        import openvino_genai

        self.tensor, self.library = openvino.Tensor, openvino_genai
        self.model = openvino_genai.LLMPipeline(
            model,
            "CPU",
            ATTENTION_BACKEND=options.get("attention", "PA"),
            PERFORMANCE_HINT="LATENCY",
            INFERENCE_NUM_THREADS=threads,
        )
        return {"version": openvino_genai.__version__}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> float:
        import numpy as np

        longest = max(map(len, prompts))
        ids = np.array([[0] * (longest - len(prompt)) + prompt for prompt in prompts], np.int64)
        mask = np.array([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], np.int64)
        settings = self.library.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        done = self.model.generate(self.library.TokenizedInputs(self.tensor(ids), self.tensor(mask)), settings)
        _check_lengths([len(each) for each in done.tokens], new_tokens)
        return float(done.perf_metrics.get_ttft().mean) / 1e3 if len(prompts) == 1 else 0.0

    def logits(self, ids: list[int]) -> Any:
        raise NotImplementedError("OpenVINO GenAI does not hand out logits")


def _check_lengths(found: list[int], new_tokens: int) -> None:
    """A text that ended early would count as fast."""
    if any(length != new_tokens for length in found):
        raise RuntimeError(f"{new_tokens} new tokens were asked for in each row, and there are {found}")


def _untyped(module: Any) -> Any:
    return module


ENGINES = {
    "martlet": Martlet,
    "llama.cpp": LlamaCpp,
    "transformers": Transformers,
    "CTranslate2": CTranslate2,
    "OpenVINO": OpenVino,
}


def answer(engine: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to one line."""
    if asked["do"] == "load":
        began = time.perf_counter()
        loaded = engine.load(asked["model"], asked["threads"], asked["context"], asked["rows"], asked["options"])
        return {"loaded": loaded, "load_s": time.perf_counter() - began}
    if asked["do"] == "generate":
        began = time.perf_counter()
        first_s = engine.generate(asked["prompts"], asked["new_tokens"])
        total_s = time.perf_counter() - began
        return {"first_s": first_s, "total_s": total_s, "new_tokens": asked["new_tokens"] * len(asked["prompts"])}
    if asked["do"] == "logits":
        import numpy as np

        found = np.ascontiguousarray(engine.logits(asked["ids"]), np.float32)
        found.tofile(asked["path"])
        return {"shape": list(found.shape)}
    raise ValueError(f"nothing to do for {asked['do']!r}")


def main() -> None:
    """Answers until stdin ends. What libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine = ENGINES[sys.argv[1]]()
    for line in sys.stdin:
        try:
            said = answer(engine, json.loads(line))
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(said) + "\n")
        out.flush()


if __name__ == "__main__":
    if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]  # our files must not shadow the engine's modules
    with contextlib.suppress(KeyboardInterrupt):
        main()
