"""Memory of a run before it starts: counted on a model of tensors without storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from martlet.formats.gguf_blocks import BLOCKS
from martlet.nn.compute import computing_in_float32, has_bfloat16_products
from martlet.nn.decoder import Block, CausalLM, Trace
from martlet.nn.packed import KINDS
from martlet.nn.ragged import ragged_rows
from martlet.training.losses import CHUNK_BYTES
from martlet.training.objectives import unwrapped

PROCESS_BYTES = 330 << 20  # Python, torch and its libraries, the tokenizer
PART_BYTES = 16 << 20  # of one packed matrix, unpacked at a time


@contextmanager
def without_storage() -> Iterator[None]:
    """Inside, tensors have shapes and dtypes and no numbers: a model of any size is made at once."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@dataclass(frozen=True)
class Kept:
    """Bytes that a forward pass keeps for the backward pass: each block's, what goes into each, and all others."""

    blocks: tuple[int, ...]
    inputs: tuple[int, ...]
    rest: int

    def at_once(self, checkpointing: bool) -> int:
        """The most there is at a time; with checkpointing, every block's input and all that one block keeps."""
        if not checkpointing:
            return sum(self.blocks) + self.rest
        return sum(self.inputs) + max(self.blocks) + self.rest


def gradients_beside(gradients: int, kept: int, accumulates: bool) -> int:
    """Bytes of gradients there are beside `kept`: all after a batch of several; else they grow as what is kept goes."""
    return gradients if accumulates else max(0, gradients - kept)


def count_kept(model: nn.Module, lengths: Sequence[int]) -> Kept:
    """What `model`, made inside `without_storage`, keeps of a batch of rows of these lengths."""
    own = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}
    held: list[Tensor] = []  # as long as they are held no storage has the place of another
    sums = {"now": 0}
    blocks: list[int] = []
    inputs: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            own.add(storage._cdata)
            held.append(tensor)
            sums["now"] += storage.nbytes()
        return tensor

    def enter(_: Any, given: tuple[Any, ...]) -> None:
        inputs.append(given[0].untyped_storage().nbytes())
        blocks.append(-sums["now"])

    def leave(*_: Any) -> None:
        blocks[-1] += sums["now"]

    hooks = [each for block in model.modules() if isinstance(block, Block) for each in (
        block.register_forward_pre_hook(enter), block.register_forward_hook(leave))]  # fmt: skip
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = _run(model, lengths)
        held.append(out)
    finally:
        for hook in hooks:
            hook.remove()
    return Kept(tuple(blocks), tuple(inputs), sums["now"] - sum(blocks))


def _run(model: nn.Module, lengths: Sequence[int]) -> Tensor:
    inner = unwrapped(model)
    ids = torch.zeros(sum(lengths), dtype=torch.int64)
    if isinstance(inner, CausalLM):  # its head makes a chunk of logits at a time
        rows = ragged_rows(tuple(lengths), (0,) * len(lengths), ids.device)
        out: Tensor = inner.model.run(ids, rows, None, Trace())
        return out
    made = inner(input_ids=ids.view(len(lengths), -1), return_dict=False)
    first: Tensor = made[0]
    return first


def widened(model: nn.Module) -> Any:
    """How a Trainer computes on this machine's CPU: bfloat16 weights by float32 products where it has no others."""
    import contextlib

    return contextlib.nullcontext() if has_bfloat16_products("cpu") else computing_in_float32(model)


def weight_bytes(model: nn.Module, quantize: str | None) -> int:
    """All weights; the blocks' matrices packed where the run quantizes them."""
    packed = set()
    saved = 0
    if quantize is not None:
        block = BLOCKS[KINDS[quantize]]
        for layer in (each for each in model.modules() if isinstance(each, Block)):
            for module in layer.modules():
                if isinstance(module, nn.Linear) and module.in_features % block.size == 0:
                    packed.add(id(module.weight))
                    saved += module.weight.numel() // block.size * block.num_bytes
    return saved + sum(each.nbytes for each in model.parameters() if id(each) not in packed)


def state_bytes(model: nn.Module, optim: str, update: str) -> int:
    """The optimizer's, and float32 masters of narrow weights."""
    total = 0
    for each in (each for each in model.parameters() if each.requires_grad):
        count, narrow = each.numel(), each.dtype != torch.float32
        width = each.element_size() if narrow and update == "plain" else 4
        if optim == "adafactor" and each.ndim > 1:
            total += 4 * count * (each.shape[-1] + each.shape[-2]) // (each.shape[-1] * each.shape[-2])
        else:
            total += int(count * _MOMENTS.get(optim, 2.0) * width)
        total += 4 * count if narrow and update == "master" else 0
    return total


# float32 values a weight
_MOMENTS = {"sgd": 0.0, "adagrad": 1.0, "rmsprop": 1.0, "adafactor": 1.0, "adamw_8bit": 0.5, "adamw_bnb_8bit": 0.5,
            "lion_8bit": 0.25, "adamw_torch_8bit": 0.5, "adamw_torch_4bit": 0.25}  # fmt: skip


def gradient_bytes(model: nn.Module) -> int:
    return sum(each.nbytes for each in model.parameters() if each.requires_grad)


def head_bytes(model: nn.Module, num_tokens: int) -> int:
    """A causal LM's head and loss: a chunk of logits, the states' gradients, and the head's own."""
    inner = unwrapped(model)
    if not isinstance(inner, CausalLM):
        return 0
    weight = inner.lm_head.weight
    rows = min(num_tokens, max(1, CHUNK_BYTES // (4 * weight.shape[0])))
    total = rows * weight.shape[0] * 4 + 2 * num_tokens * weight.shape[1] * 4
    if weight.requires_grad:
        total += 4 * weight.numel()
    if weight.dtype != torch.float32:
        total += 4 * weight.numel()  # widened for its products
    return int(total)
