"""What a run of a config will take, before it starts: parameters, memory, steps, tokens, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from martlet.training.arguments import TrainingArguments
from martlet.training.config import TASKS, load_rows, lora_config
from martlet.training.order import Order


def plan_run(config: Mapping[str, Any], sample: int = 64) -> dict[str, Any]:
    """What a run will take: from the model's headers and the lengths of `sample` rows; nothing is trained.

    `memory_bytes` is the process's peak: weights, gradients, optimizer, what the modules keep of the longest batch for
    the backward pass, the head's chunk of logits, Python and torch. `seconds` comes from this machine's matrix-product
    peak, and is what a run takes at least.
    """
    from martlet.arch import step_flops
    from martlet.auto import AutoConfig
    from martlet.tokenizers.auto import AutoTokenizer
    from martlet.training.peak import peak_of
    from martlet.training.samples import RowReader

    args, model_config = TrainingArguments(**config["training"]), AutoConfig.from_pretrained(config["model"])
    arch, rows = model_config.arch, load_rows(config["train_data"])
    reader = RowReader(AutoTokenizer.from_pretrained(config["model"]), None, arch.max_position_embeddings)
    stride = max(1, len(rows) // sample)
    picked = range(0, len(rows), stride)
    lengths = [len(reader.read(rows[number], number)["input_ids"]) for number in picked]
    mean, longest = sum(lengths) / len(lengths), max(lengths)
    order = Order(len(rows), args.train_batch_size, args.gradient_accumulation_steps, 1, args.seed)
    epochs = args.num_train_epochs
    steps = args.max_steps if args.max_steps > 0 else int(-(-epochs * order.steps_per_epoch // 1))
    tokens = round(steps * order.step_size * mean)
    # with adapters the frozen matrices get no gradient of their own: 4 passes' products in place of 6
    passes = 2.0 if "lora" in config else 3.0
    flops = passes * step_flops(arch, round(mean)) / max(1, round(mean)) * tokens
    memory = plan_memory(config, args, model_config, (longest,) * args.train_batch_size)
    return {
        "parameters": memory.pop("parameters"),
        "trainable": memory.pop("trainable"),
        "rows": len(rows),
        "tokens_a_row": round(mean, 1),
        "longest_row": longest,
        "steps": steps,
        "samples_a_step": order.step_size,
        "tokens": tokens,
        "memory_bytes": sum(memory.values()),
        "memory": memory,
        "flops": flops,
        "seconds": flops / peak_of("cpu"),
    }


def plan_memory(
    config: Mapping[str, Any], args: TrainingArguments, model_config: Any, lengths: Sequence[int]
) -> dict[str, int]:
    """Bytes of each part of a run whose longest batch has rows of these lengths; and `parameters`, `trainable`."""
    import martlet
    from martlet.training import memory
    from martlet.training.heap import HOLES_BYTES

    options: dict[str, Any] = {"dtype": config.get("dtype") or "float32"}
    if config.get("num_labels"):
        options["num_labels"] = config["num_labels"]
    lora = lora_config(config, "config")
    with memory.without_storage():
        model = getattr(martlet, TASKS[config["task"]]).from_config(model_config, **options)
        parameters = sum(each.numel() for each in model.parameters())
        if lora is not None:
            from martlet.adapters import get_peft_model

            model = get_peft_model(model, lora)
        model.train()
        with memory.widened(model):
            kept = memory.count_kept(model, lengths)
    at_once = kept.at_once(bool(args.gradient_checkpointing))
    parts = {
        "process": memory.PROCESS_BYTES,
        "weights": memory.weight_bytes(model, config.get("quantize")),
        "gradients": memory.gradients_beside(
            memory.gradient_bytes(model), at_once, args.gradient_accumulation_steps > 1
        ),
        "optimizer": memory.state_bytes(model, args.optim, args.bf16_update),
        "kept": at_once,
        "head": memory.head_bytes(model, sum(lengths)),
    }
    return {
        "parameters": parameters,
        "trainable": sum(each.numel() for each in model.parameters() if each.requires_grad),
        **parts,
        "holes": HOLES_BYTES,
    }
