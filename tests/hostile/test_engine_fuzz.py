"""Damaged files through load and generate on the engine, and its boundary from several threads at once: no crash.

Cases are numbered, and a number is its case's seed: `MARTLET_FUZZ_CASES=20000 MARTLET_FUZZ_FIRST=0` runs many, and
`MARTLET_FUZZ_FIRST=1234 MARTLET_FUZZ_CASES=1` one again.
"""

import contextlib
import json
import os
import struct
import threading

import numpy as np
import pytest

import martlet
from martlet import engine
from martlet.arch import tensors
from martlet.engine.extension import native
from martlet.errors import MartletError
from martlet.families import Config
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.gguf_writer import save_gguf
from martlet.formats.safetensors import save_safetensors

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

FIRST, CASES = int(os.environ.get("MARTLET_FUZZ_FIRST", 0)), int(os.environ.get("MARTLET_FUZZ_CASES", 40))
LYING = [0, 1, 2, 3, 7, 31, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1]
SIZES = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
KINDS = native().kinds() if engine.is_built() else ()
IN_GGUF = {
    "embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers.": "blk.", "model.": "",
}  # fmt: skip


def stored(rng, kinds):
    """Tensors of random types and numbers, mostly small ones."""
    for name, shape in tensors(Config(SIZES).arch).items():
        kind = "F32" if len(shape) == 1 else rng.choice(kinds)
        if kind in BLOCKS:
            block = BLOCKS[kind]
            raw = rng.integers(0, 256, (int(np.prod(shape)) // block.size, block.num_bytes), np.uint8)
            raw[:, 1::2] &= 0x3B  # so that scales are finite, wherever they stand
            yield name, (kind, shape, raw)
        else:
            values = rng.normal(0, 0.1, shape).astype(np.float32)
            raw = values.view(np.uint32) >> 16 if kind == "BF16" else values.astype(np.float16)
            yield name, (kind, shape, values if kind == "F32" else raw.astype(np.uint16) if kind == "BF16" else raw)


def write(path, rng):
    """A small model in one file, or a folder; the file that is to be damaged."""
    if rng.integers(3):
        found = dict(stored(rng, KINDS))
        named = {}
        for name, one in found.items():
            for ours, theirs in IN_GGUF.items():
                name = name.replace(ours, theirs)
            named[name] = one
        keys = {
            "general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 64,
            "llama.embedding_length": 256, "llama.feed_forward_length": 256, "llama.attention.head_count": 4,
            "llama.attention.head_count_kv": 2, "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "tokenizer.ggml.tokens": ["a", "bc" * 200],
        }  # fmt: skip
        save_gguf(path / "model.gguf", keys, named)
        return path / "model.gguf", path / "model.gguf"
    save_safetensors(path / "model.safetensors", dict(stored(rng, ("F32", "F16", "BF16"))))
    (path / "config.json").write_text(json.dumps({**SIZES, "architectures": ["LlamaForCausalLM"]}))
    return path, path / "model.safetensors"


def damage(raw, rng):
    raw = bytearray(raw)
    for _ in range(rng.integers(0, 3)):
        # headers are short: a third of the damage is theirs
        at = int(rng.integers(0, len(raw) if rng.integers(3) else min(len(raw), 3000)))
        match rng.integers(6):
            case 0:
                raw[at] ^= 1 << int(rng.integers(8))
            case 1:
                form = "<Q" if rng.integers(2) else "<I"
                number = int(rng.choice(np.array(LYING, object))) % 2 ** (8 * struct.calcsize(form))
                raw[at : at + struct.calcsize(form)] = struct.pack(form, number)
            case 2:
                raw[at : at + 2] = b"\x00\x7c"  # an infinite half
            case 3:
                del raw[at : at + int(rng.integers(1, 40))]
            case 4:
                raw[at:at] = rng.bytes(int(rng.integers(1, 40)))
            case _:
                raw[at : at + 8] = rng.bytes(8)
        if not raw:
            break
    return bytes(raw[: int(rng.integers(len(raw) + 1))] if rng.integers(8) == 0 else raw)


@pytest.mark.parametrize("part", range(4))
def test_damaged_files_through_load_and_generate(tmp_path, part):
    for seed in range(FIRST + part, FIRST + CASES, 4):
        rng = np.random.default_rng(seed)
        model_path, file = write(tmp_path, rng)
        file.write_bytes(damage(file.read_bytes(), rng))
        with contextlib.suppress(MartletError):
            options = {"quantize": str(rng.choice(["int8", "int4"]))} if rng.integers(4) == 0 else {}
            options |= {"num_threads": int(rng.integers(1, 4))}
            model = martlet.AutoModelForCausalLM.from_pretrained(model_path, backend="native", **options)
            if rng.integers(6) == 0:
                os.truncate(file, int(rng.integers(file.stat().st_size + 1)))
            prompts = [rng.integers(0, 64, int(rng.integers(1, 30))).tolist() for _ in range(int(rng.integers(1, 4)))]
            model.generate(prompts, max_new_tokens=3, do_sample=bool(rng.integers(2)), pad_token_id=0)


def small_engine():
    from tests.engine.test_boundary import make_model

    return native().Engine(make_model(), "", 2, 40)


def play(engine_, rows, rng, errors):
    """Random calls on an engine that others call too, on their rows as well, from inside its own calls as well."""
    chooser = native().Chooser(32, greedy=bool(rng.integers(2)))

    def ask(depth=0):
        row = int(rng.choice(rows)) if rows and rng.integers(6) else int(rng.integers(-1, 50))
        with contextlib.suppress(ValueError, IndexError, MemoryError, RuntimeError):
            match rng.integers(8):
                case 0:
                    rows.append(engine_.add())
                case 1:
                    rows.append(engine_.fork(row))
                case 2:
                    engine_.release(row)
                case 3:
                    engine_.truncate(row, int(rng.integers(-2, 40)))
                case 4:
                    engine_.trim()
                case 5:
                    engine_.pages_needed(row, int(rng.integers(0, 99)))
                case _ if depth < 2:
                    count = int(rng.integers(1, 20))
                    arrays = [np.array(each, np.int32) for each in ([row], [count], rng.integers(0, 32, count))]
                    turns = [rng.normal(size=(1, 4)).astype(np.float32)]
                    if rng.integers(2):
                        engine_.step(*arrays, turns, False, np.empty((1, 32), np.float32))
                    else:

                        def hear(step):
                            ask(depth + 1)
                            if rng.integers(9) == 0:
                                raise ValueError("of the listener")
                            return bool(rng.integers(5))

                        listener = hear if rng.integers(2) else None
                        engine_.advance(*arrays, turns, [chooser], int(rng.integers(1, 6)), listener)

    try:
        for _ in range(60):
            ask()
    except BaseException as error:
        errors.append(error)


@pytest.mark.parametrize("part", range(4))
def test_an_engine_called_from_everywhere(part):
    for seed in range(FIRST + part, FIRST + max(4, CASES // 4), 4):
        one, rows, errors = small_engine(), [], []
        players = [
            threading.Thread(target=play, args=(one, rows, np.random.default_rng([seed, place]), errors))
            for place in range(3)
        ]
        for player in players:
            player.start()
        for player in players:
            player.join()
        assert not errors, (seed, errors)


@pytest.mark.parametrize("part", range(4))
def test_fillings_of_anything(tmp_path, part):
    path = tmp_path / "rows"
    for seed in range(FIRST + part, FIRST + CASES, 4):
        rng = np.random.default_rng(seed)
        path.write_bytes(rng.bytes(int(rng.integers(0, 40000))))
        filling, packed = native().Filling(), []
        with open(path, "rb") as file:
            for _ in range(int(rng.integers(0, 6))):
                with contextlib.suppress(ValueError, TypeError):
                    kind, stored_as = (
                        rng.choice(native().kinds(), 2) if rng.integers(3) == 0 else [rng.choice(KINDS)] * 2
                    )
                    rows, columns = int(rng.integers(1, 90)), int(rng.choice([32, 64, 256, 33]))
                    packed.append(native().make_packed(str(kind), rows, columns))
                    order = rng.integers(-1 if rng.integers(9) == 0 else 0, rows, rows) if rng.integers(2) else None
                    if rng.integers(2):
                        offset, there = (
                            int(rng.choice([0, 3, 900, -1, 2**62])),
                            int(rng.choice([rows, 0, 5, 2**40, -1])),
                        )
                        filling.add_file(packed[-1], str(stored_as), file.fileno(), offset, there, order)
                    else:
                        memory = np.frombuffer(rng.bytes(int(rng.integers(0, 90000))), np.uint8)
                        filling.add_memory(packed[-1], str(stored_as), memory, order)
        if rng.integers(4) == 0:
            os.truncate(path, int(rng.integers(0, path.stat().st_size + 1)))
        with contextlib.suppress(ValueError):
            filling.begin(int(rng.integers(-1, 4)))
            if rng.integers(4):
                failed = filling.finish(bool(rng.integers(2)))
                assert failed is None or (0 <= failed[0] < len(packed) and isinstance(failed[1], str))
                assert filling.finish() == failed
        del filling
