"""What a call of the text-generation pipeline answers: ids of sequences to the records users read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from martlet.generation.config import GenerationConfig
from martlet.generation.outputs import GenerateOutput
from martlet.generation.settings import eos_ids
from martlet.pipelines.call import Encoded
from martlet.pipelines.inputs import Chat, Prompt
from martlet.pipelines.options import ReturnType

Record = dict[str, Any]


def build_records(
    tokenizer: Any,
    row: Encoded,
    sequences: Sequence[list[int]],
    extras: Sequence[Record],
    options: dict[str, Any],
    config: GenerationConfig,
) -> list[Record]:
    """The records of one prompt's sequences, in the form asked for."""
    if options["return_type"] is ReturnType.TENSORS:
        # Hugging Face's are rows of one tensor: the sequences of a prompt have one length.
        longest = max(map(len, sequences))
        pad_id = next(iter([*_given(config.pad_token_id), *eos_ids(config), 0]))
        return [{"generated_token_ids": ids + [pad_id] * (longest - len(ids))} for ids in sequences]
    records = []
    for ids, extra in zip(sequences, extras, strict=True):
        text = tokenizer.decode(
            ids[row.num_prompt :],
            skip_special_tokens=options["skip_special_tokens"],
            clean_up_tokenization_spaces=options["clean_up_tokenization_spaces"],
        )
        if options["return_type"] is ReturnType.FULL_TEXT:
            text = full_text(row.prompt, text, options)
        records.append({"generated_text": text, **extra})
    return records


def _given(value: int | None) -> list[int]:
    return [] if value is None else [value]


def continues(chat: Chat, options: dict[str, Any]) -> bool:
    """Whether the answer goes on with the last message: if asked to, else if that is the assistant's."""
    asked = options["continue_final_message"]
    return chat.ends_with_assistant if asked is None else bool(asked)


def full_text(prompt: Prompt, answer: str, options: dict[str, Any]) -> Any:
    if not isinstance(prompt, Chat):
        return str(prompt) + answer
    if not continues(prompt, options):
        return [*prompt.messages, {"role": "assistant", "content": answer}]
    last = prompt.messages[-1]
    content = last["content"]
    if isinstance(content, list | tuple):  # blocks, of which the template continued the last text
        place = max(number for number, block in enumerate(content) if "text" in block)
        block = {**content[place], "text": content[place]["text"] + answer}
        content = [*content[:place], block, *content[place + 1 :]]
    else:
        content = content + answer
    return [*prompt.messages[:-1], {**last, "content": content}]


def build_extras(output: GenerateOutput, rows: Sequence[Encoded], num_each: int) -> list[Record]:
    """What `generate` gave beside each sequence, as lists: values a sequence, and scores of its every step."""
    assert output.num_new_tokens is not None
    num_sequences = len(rows) * num_each
    extras: list[Record] = [{} for _ in range(num_sequences)]
    for name in ("sequences_scores", "beam_indices"):
        if (values := output.get(name)) is not None:
            for extra, value in zip(extras, values, strict=True):
                extra[name] = value.tolist()
    for name in ("scores", "logits"):
        steps = output.get(name)
        if not steps or len(steps[0]) != num_sequences:  # of beams that were not returned
            continue
        for place, extra in enumerate(extras):
            own = slice(place // num_each * num_each, (place // num_each + 1) * num_each)
            num_steps = max(output.num_new_tokens[own])
            extra[name] = [step[place].tolist() for step in steps[:num_steps]]
    return extras
