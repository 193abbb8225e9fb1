"""Files for the benches, made once: SmolLM2 in other types, and random models of real sizes.

python bench/variants.py FOLDER [--huge]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from martlet.auto import AutoModelForCausalLM
from martlet.engine.encode import encode
from martlet.formats import open_weights
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.gguf_writer import save_gguf
from martlet.formats.tensors import TensorInfo
from martlet.quantization.retype import FILE_TYPES, QUANTIZATION_VERSION, retype_gguf
from martlet.tokenizers.auto import AutoTokenizer

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_variant(source: Path, folder: Path, kind: str) -> Path:
    """SmolLM2 with every matrix in `kind`; the head, as llama.cpp's own files have it, at least in Q8_0."""
    if kind == "Q4_1":
        return source
    path = folder / f"SmolLM2-135M-Instruct.{kind}.gguf"
    if not path.is_file():
        head = kind if kind in ("F16", "BF16", "F32") else "Q8_0"

        def kind_of(info: TensorInfo) -> str:
            if len(info.shape) < 2:
                return info.dtype
            return head if info.name == "token_embd.weight" else kind

        retype_gguf(open_weights(source), path, kind_of)
    return path


def smollm2_folder(source: Path, folder: Path) -> Path:
    """SmolLM2 as a Hugging Face folder in float32, with its tokenizer, for engines that read no GGUF."""
    path = folder / "SmolLM2-135M-Instruct"
    if not (path / "tokenizer.json").is_file():
        AutoModelForCausalLM.from_pretrained(source).save_pretrained(path)
        AutoTokenizer.from_pretrained(source).save_pretrained(path)
    return path


@dataclass(frozen=True)
class Size:
    """A Qwen2 of random weights."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool


HALF = Size(24, 896, 4864, 14, 2, 151_936, True)  # as Qwen2-0.5B
SEVEN = Size(28, 3584, 18_944, 28, 4, 152_064, False)  # as Qwen2-7B


def mixture(name: str, layer: int, size: Size) -> str:
    """What a Q4_K_M file has at widths that 256 does not divide: Q5_0, and Q8_0 and Q6_K where it matters."""
    if name == "token_embd":
        return "Q8_0"
    more = layer < size.layers // 8 or layer >= 7 * size.layers // 8 or (layer - size.layers // 8) % 3 == 2
    if name == "attn_v":
        return "Q8_0" if more else "Q5_0"
    if name == "ffn_down":
        return "Q6_K" if more else "Q4_K"
    return "Q5_0"


def random_qwen2(path: Path, size: Size, kind_of: Callable[[str, int, Size], str]) -> Path:
    """A GGUF file of a random Qwen2: block types in random bytes under scales that keep its values small."""
    if path.is_file():
        return path
    rng = np.random.default_rng(0)
    head_dim = size.hidden // size.heads
    kv = size.kv_heads * head_dim
    matrices = {
        "attn_q": (size.hidden, size.hidden), "attn_k": (kv, size.hidden), "attn_v": (kv, size.hidden),
        "attn_output": (size.hidden, size.hidden), "ffn_gate": (size.ffn, size.hidden),
        "ffn_up": (size.ffn, size.hidden), "ffn_down": (size.hidden, size.ffn),
    }  # fmt: skip
    tensors = {}

    def put(name: str, shape: tuple[int, ...], kind: str) -> None:
        tensors[f"{name}.weight"] = (kind, shape, lambda: random_bytes(rng, kind, shape))

    put("token_embd", (size.vocab, size.hidden), kind_of("token_embd", 0, size))
    if not size.tied:
        put("output", (size.vocab, size.hidden), kind_of("output", 0, size))
    tensors["output_norm.weight"] = ("F32", (size.hidden,), np.ones(size.hidden, np.float32))
    for layer in range(size.layers):
        for name, shape in matrices.items():
            put(f"blk.{layer}.{name}", shape, kind_of(name, layer, size))
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = ("F32", (size.hidden,), np.ones(size.hidden, np.float32))
        for name, rows in (("attn_q", size.hidden), ("attn_k", kv), ("attn_v", kv)):
            tensors[f"blk.{layer}.{name}.bias"] = ("F32", (rows,), np.zeros(rows, np.float32))
    counts: dict[str, int] = {}
    for kind, shape, _ in tensors.values():
        counts[kind] = counts.get(kind, 0) + int(np.prod(shape))
    most = max(counts, key=lambda kind: counts[kind])
    metadata = {
        "general.architecture": "qwen2",
        "general.name": f"random {path.stem}",
        "general.file_type": FILE_TYPES.get(most, 15),
        "general.quantization_version": QUANTIZATION_VERSION,
        "qwen2.block_count": size.layers,
        "qwen2.context_length": 32_768,
        "qwen2.embedding_length": size.hidden,
        "qwen2.feed_forward_length": size.ffn,
        "qwen2.attention.head_count": size.heads,
        "qwen2.attention.head_count_kv": size.kv_heads,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen2.rope.freq_base": 1e6,
        "qwen2.vocab_size": size.vocab,
        "tokenizer.ggml.model": "none",
    }
    save_gguf(path, metadata, tensors)
    return path


def random_bytes(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Bytes of a random matrix, its numbers about 1 / sqrt(columns)."""
    std = shape[-1] ** -0.5
    if kind in ("F16", "BF16", "F32"):
        return encode(rng.standard_normal(shape, np.float32) * np.float32(std), kind)
    block = BLOCKS[kind]
    count = int(np.prod(shape)) // block.size
    raw = rng.integers(0, 256, (count, block.num_bytes), np.uint8)
    # where a type keeps its fp16 scales, and what its quants spread over
    scales = {"Q8_0": ((0, 74),), "Q4_0": ((0, 4.6),), "Q5_0": ((0, 9.2),), "Q6_K": ((208, 18.5 * 74),)}
    if kind == "Q4_K":  # d sc q - dmin m: the minimum of the middle of the quants
        put_half(raw, 0, std / (4.6 * 36)), put_half(raw, 2, 7.5 * std / (4.6 * 36))
    else:
        for place, spread in scales[kind]:
            put_half(raw, place, std / spread)
    return raw.reshape(-1)


def put_half(raw: np.ndarray, place: int, value: float) -> None:
    raw[:, place : place + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)


def half_variant(folder: Path, kind: str) -> Path:
    """The 0.5B in one type, or with "mixture" in several."""
    path = folder / f"random-qwen2-0.5b.{kind}.gguf"
    return random_qwen2(path, HALF, mixture if kind == "mixture" else lambda name, layer, size: kind)


def seven_variant(folder: Path) -> Path:
    """The 7B in Q4_0, 4.4 GB."""
    return random_qwen2(folder / "random-qwen2-7b.Q4_0.gguf", SEVEN, lambda name, layer, size: "Q4_0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"holds {SMOLLM2}; the others are put beside it")
    parser.add_argument("--huge", action="store_true", help="the 7B too")
    arguments = parser.parse_args()
    for kind in ("Q4_0", "Q8_0", "BF16", "F16"):
        print(smollm2_variant(arguments.folder / SMOLLM2, arguments.folder, kind))
    for kind in ("mixture", "Q8_0", "F16"):
        print(half_variant(arguments.folder, kind))
    if arguments.huge:
        print(seven_variant(arguments.folder))


if __name__ == "__main__":
    main()
