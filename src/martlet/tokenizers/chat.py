"""Chat templates: which one, what it may see, rendered text to ids. The Jinja environment is in `templates`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from martlet.errors import ArgumentError, ChatTemplateError

if TYPE_CHECKING:
    from martlet.tokenizers.batch import BatchEncoding
    from martlet.tokenizers.tokenizer import Tokenizer

# The names under which a message's reasoning comes; templates read the first, gpt-oss ones "thinking".
_REASONING = ("reasoning_content", "thinking", "reasoning")


class Prompt(str):
    """Text that a chat template rendered. It has its special tokens, so encoding it adds none."""

    __slots__ = ()

    def __add__(self, other: str) -> Prompt:
        return Prompt(str.__add__(self, other))


def apply_chat_template(
    tokenizer: Tokenizer,
    conversation: Any,
    tools: Any = None,
    *,
    documents: Any = None,
    chat_template: str | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool | str = False,
    tokenize: bool = True,
    padding: bool | str = False,
    truncation: bool | str = False,
    max_length: int | None = None,
    return_tensors: str | None = None,
    return_dict: bool = True,
    return_assistant_tokens_mask: bool = False,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    **variables: Any,
) -> Any:
    """Messages (dicts of role and content, or a batch of such lists) to a prompt.

    Gives a BatchEncoding; its input_ids with `return_dict=False`; a `Prompt` (text) with `tokenize=False`. Ids never
    get tokens beyond the template's own, so a BOS cannot come twice. `return_assistant_tokens_mask` marks what
    `{% generation %}` blocks wrote. Further keywords are variables of the template. Errors: ChatTemplateError.
    """
    if return_assistant_tokens_mask and not (return_dict and tokenize):
        raise ArgumentError("return_assistant_tokens_mask", "needs return_dict=True and tokenize=True")
    if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
        other = "add_generation_prompt" if add_generation_prompt else "return_assistant_tokens_mask"
        raise ArgumentError("continue_final_message", f"cannot go with {other}")
    template = choose_template(tokenizer.chat_template, chat_template, tools)
    chats, is_batch = _conversations(conversation)
    variables = {**tokenizer.special_tokens_map, **variables, "add_generation_prompt": add_generation_prompt}
    variables |= {"tools": _tool_schemas(tools), "documents": _documents(documents)}
    rendered = [
        _render(template, chat, plain(variables), continue_final_message, return_assistant_tokens_mask)
        for chat in chats
    ]
    texts = [text for text, _ in rendered]
    if not tokenize:
        return texts if is_batch else texts[0]
    result: BatchEncoding = tokenizer(
        texts if is_batch else texts[0],
        padding=padding,
        truncation=truncation,
        max_length=max_length,
        add_special_tokens=False,
        return_tensors=return_tensors,
        **(tokenizer_kwargs or {}),
    )
    if return_assistant_tokens_mask:
        masks = [_assistant_mask(result, row, spans) for row, (_, spans) in enumerate(rendered)]
        result["assistant_masks"] = masks if is_batch or return_tensors else masks[0]
        result.convert_to_tensors(return_tensors)
    return result if return_dict else result["input_ids"]


def choose_template(own: str | dict[str, str] | None, asked: str | None, tools: Any) -> str:
    """The template's text: the one asked for by text or name, else "tool_use" for tools, else the default."""
    if isinstance(own, dict):
        if asked is not None:
            return own.get(asked, asked)
        name = "tool_use" if tools is not None and "tool_use" in own else "default"
        if name in own:
            return own[name]
        raise ChatTemplateError(
            "chat template",
            "there are several and none is the default",
            remedy=f"Pass chat_template= one of {sorted(own)}.",
        )
    if asked is not None:
        return asked
    if own is None:
        raise ChatTemplateError(
            "chat template",
            "this tokenizer has none",
            remedy="Is it an instruction-tuned model? Otherwise pass chat_template=, or set tokenizer.chat_template.",
        )
    return own


def _conversations(conversation: Any) -> tuple[list[list[Any]], bool]:
    if not isinstance(conversation, (list, tuple)) and not hasattr(conversation, "messages"):
        found = type(conversation).__name__
        raise ArgumentError("conversation", "must be a list of messages, or a list of such lists", found=found)
    is_batch = not hasattr(conversation, "messages") and bool(conversation) and _is_chat(conversation[0])
    chats = [list(getattr(chat, "messages", chat)) for chat in (conversation if is_batch else [conversation])]
    for chat in chats:
        if not chat:
            raise ArgumentError("conversation", "needs at least one message", found="none")
    return [[_message(message) for message in chat] for chat in chats], is_batch


def _is_chat(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or hasattr(value, "messages")


def _message(message: Any) -> dict[str, Any]:
    data = plain(message)
    if not isinstance(data, dict):
        raise ArgumentError("message", "must be a dict with role and content", found=type(message).__name__)
    data = {key: value for key, value in data.items() if value is not None}  # templates print None as text
    reasoning = next((data[key] for key in _REASONING if key in data), None)
    if reasoning is not None:
        data = {"thinking": reasoning, **data, "reasoning_content": reasoning}
    return data


def plain(value: Any) -> Any:
    """A copy made of JSON's kinds only: a template is foreign code and gets no object with methods."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return plain(value.model_dump())
    return f"<{type(value).__name__}>"


def _tool_schemas(tools: Any) -> list[Any] | None:
    if tools is None:
        return None
    from martlet.tokenizers.tools import get_json_schema

    return [tool if isinstance(tool, dict) else get_json_schema(tool) for tool in tools]


def _documents(documents: Any) -> Any:
    for document in documents or ():
        if not isinstance(document, dict):
            raise ArgumentError("documents", "must be dicts with title and text", found=type(document).__name__)
    return documents


def _render(
    template: str, chat: list[dict[str, Any]], variables: dict[str, Any], continues: bool | str, marks: bool
) -> tuple[Prompt, list[tuple[int, int]]]:
    from martlet.tokenizers.templates import mark, render

    if not continues:
        text, spans = render(template, {"messages": chat, **variables}, marks)
        return Prompt(text), spans
    end = mark()
    wanted = _mark_end(chat[-1], continues if isinstance(continues, str) else "content", end, template)
    text, spans = render(template, {"messages": chat, **variables}, marks)
    if end.strip() not in text or wanted.strip() not in text:
        raise ChatTemplateError(
            "continue_final_message", "the template does not write the final message in full, so it cannot be continued"
        )
    place = text.rindex(end.strip())
    was_trimmed = text[place : place + len(end)] != end
    return Prompt(text[:place].rstrip() if was_trimmed else text[:place]), spans


def _mark_end(message: dict[str, Any], name: str, end: str, template: str) -> str:
    value = message.get(name)
    if value is None:
        raise ChatTemplateError("continue_final_message", f"the final message has no {name!r}", found=sorted(message))
    names = [key for key in _REASONING if message.get(key) == value] if name in _REASONING else [name]
    if not any(key in template for key in names):
        raise ChatTemplateError("continue_final_message", f"the template never reads {name!r}")
    if isinstance(value, str):
        message.update({key: value + end for key in names})
        return value
    for block in reversed(value if isinstance(value, (list, tuple)) else []):
        if isinstance(block, dict) and "text" in block:
            text = str(block["text"])
            block["text"] = text + end
            return text
    raise ChatTemplateError("continue_final_message", "the final message has no text to continue")


def _assistant_mask(batch: BatchEncoding, row: int, spans: list[tuple[int, int]]) -> list[int]:
    length = len(batch["input_ids"][row]) if batch.encodings is None else len(batch.encodings[row].ids)
    mask = [0] * length
    for start, end in spans:
        if end <= start:
            continue
        tokens = [index for char in range(start, end) if (index := batch.char_to_token(row, char)) is not None]
        for index in range(min(tokens), max(tokens) + 1) if tokens else ():
            mask[index] = 1
    return mask
