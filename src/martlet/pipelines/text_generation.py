"""`TextGenerationPipeline`: prompts or chats to ids, a model's `generate`, ids to text. What it may be called on is
inputs.py's, what its keywords mean options.py's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from martlet.errors import ArgumentError, EmptyPromptError, MartletError
from martlet.generation.config import GenerationConfig
from martlet.generation.outputs import GenerateOutput
from martlet.pipelines.call import Call, Encoded, count_prefixes, cut_config, leave_room, with_seeds
from martlet.pipelines.description import Description, describe
from martlet.pipelines.inputs import Answers, Chat, Inputs, Prompt, batches, read_inputs
from martlet.pipelines.options import Asked, read_keywords, resolve_generation, resolve_options
from martlet.pipelines.records import Record, build_extras, build_records, continues


class TextGenerationPipeline:
    """Continues texts and chats: `pipe("Once")[0]["generated_text"]`. Made by `martlet.pipeline`.

    Keywords are those of Hugging Face's text-generation pipeline and of `generate`; given here they hold for every
    call, given in a call for that call. What neither the caller nor the model's files set has that pipeline's
    defaults: 256 new tokens, sampled at temperature 0.7; `describe()` lists what applies and where it is from.
    """

    task = "text-generation"

    def __init__(
        self, model: Any, tokenizer: Any, *, task: str = "text-generation", device: Any = None, **keywords: Any
    ) -> None:
        if not callable(getattr(model, "generate", None)) or not hasattr(model, "arch"):
            raise ArgumentError(
                "text-generation pipeline",
                "needs a causal language model of martlet's",
                found=type(model).__name__,
                remedy="Load it with martlet.AutoModelForCausalLM.",
            )
        if not callable(tokenizer) or not callable(getattr(tokenizer, "decode", None)):
            raise ArgumentError("tokenizer", "must be a tokenizer", found=type(tokenizer).__name__)
        self.model, self.tokenizer, self.task = model, tokenizer, task
        self._init = read_keywords(keywords)
        self._config(Asked())  # refuses what is wrong here, not in the first call
        if device is not None:
            from martlet.nn.devices import find_device

            model.to(find_device("cpu" if device == -1 else device))

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> Any:
        """The dtype of the model's weights."""
        return self.model.dtype

    torch_dtype = dtype  # its older name

    @property
    def generation_config(self) -> GenerationConfig:
        """What a call without keywords generates with, a copy."""
        return self._config(Asked())

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"TextGenerationPipeline(model={self.model.name_or_path!r}, device={str(self.device)!r}, dtype={dtype})"

    def __call__(self, text_inputs: Any, **keywords: Any) -> Any:
        """The answers to a prompt or many.

        A string or a chat gives a list of records, one a returned sequence; a list, a list of such lists; a dataset or
        an iterator, an iterator of them, in order, each batch of `batch_size` made when its first answer is asked for.
        A record has `generated_text`: prompt and answer, for a chat its messages with the answer appended, or, with
        `return_full_text=False`, the answer; or with `return_tensors=True` `generated_token_ids`. No answer depends on
        `batch_size`. ArgumentError, GenerationError, TokenizerError and their kinds.
        """
        asked = read_keywords(keywords)
        inputs = read_inputs(text_inputs)
        call = self._call(asked, inputs)
        if inputs.kind == "dataset":
            return Answers(lambda: self._answers(inputs, call), inputs.length)
        if inputs.kind == "iterator":
            return self._answers(inputs, call)
        answers = list(self._answers(inputs, call))
        return answers[0] if inputs.kind == "one" else answers

    predict = transform = __call__

    def describe(self, **keywords: Any) -> Description:
        """Every setting that a call with these keywords would use, and where each value is from. Prints as a table."""
        asked = read_keywords(keywords)
        return describe(self._config(asked), self._init, asked, self._own_options)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **keywords: Any) -> None:
        """Writes model and tokenizer into a folder; keywords are the model's `save_pretrained`'s. SaveError."""
        self.model.save_pretrained(save_directory, **keywords)
        self.tokenizer.save_pretrained(save_directory)

    # ---- settings

    def _config(self, asked: Asked) -> GenerationConfig:
        pad_id = getattr(self.tokenizer, "pad_token_id", None)
        return resolve_generation(self._own_config, self._init, asked, pad_id)

    @property
    def _own_config(self) -> GenerationConfig:
        return getattr(self.model, "generation_config", None) or GenerationConfig()

    @property
    def _own_options(self) -> dict[str, Any]:
        prefix = self.model.config.get("prefix")
        return {} if prefix is None else {"prefix": prefix}

    def _call(self, asked: Asked, inputs: Inputs) -> Call:
        options = resolve_options(self._init, asked, self._own_options)
        # A length to truncate to, but only of the call: a pipeline's own is generation's alone.
        options["max_length"] = asked.fields.get("max_length")
        config = self._config(asked)
        applied = config.to_dict()
        off = {name: None for name, value, _ in self._own_config.describe() if value is not None}
        arguments = {**self._init.arguments, **asked.arguments}
        turned_off = {name: None for name in off if applied[name] is None}
        return Call(options, config, arguments, turned_off, inputs.length)

    # ---- prompts to answers

    def _answers(self, inputs: Inputs, call: Call) -> Iterator[list[Record]]:
        start = 0
        for batch in batches(inputs.open(), call.options["batch_size"]):
            try:
                answers = self._answer(batch, start, call)
            except MartletError as error:
                if call.num_prompts != 1:
                    end = start + len(batch) - 1
                    error.add_note(f"The pipeline was at input{f's {start} to' if end > start else ''} {end}.")
                raise
            yield from answers
            start += len(batch)

    def _answer(self, prompts: Sequence[Prompt], start: int, call: Call) -> list[list[Record]]:
        """The records of a batch, whose first prompt is number `start` of the call."""
        config = cut_config(call.config, start, len(prompts), call.num_prompts)
        rows = [
            self._encode(prompt, call.options, config.row(place, len(prompts))) for place, prompt in enumerate(prompts)
        ]
        config = count_prefixes(config, rows)
        arguments = dict(call.arguments)
        config = with_seeds(config, len(rows), arguments.pop("generator", None))
        output = self.model.generate(
            [row.ids for row in rows],
            generation_config=config,
            attention_mask=[[1] * len(row.ids) for row in rows],
            tokenizer=self.tokenizer,
            **arguments,
            **call.turned_off,
        )
        sequences = output.sequences if isinstance(output, GenerateOutput) else output
        num_each = len(sequences) // len(rows)
        extras = build_extras(output, rows, num_each) if isinstance(output, GenerateOutput) else [{}] * len(sequences)
        answers = []
        for place, row in enumerate(rows):
            own = slice(place * num_each, (place + 1) * num_each)
            answers.append(build_records(self.tokenizer, row, sequences[own], extras[own], call.options, config))
        return answers

    def _encode(self, prompt: Prompt, options: dict[str, Any], config: GenerationConfig) -> Encoded:
        keywords = {name: options[name] for name in ("truncation",) if options[name] is not None}
        if options["max_length"] is not None and (options["truncation"] or config.max_new_tokens is not None):
            keywords["max_length"] = config.max_length
        num_prefix = 0
        if isinstance(prompt, Chat):
            ids = self._encode_chat(prompt, options, keywords)
        else:
            if options["add_special_tokens"] is not None:
                keywords["add_special_tokens"] = options["add_special_tokens"]
            text, prefix = prompt, options["prefix"]
            if prefix:
                # A text that a template rendered keeps its type, which says that it has its special tokens.
                text = type(prompt)(prefix + prompt)
                adds = bool(options["add_special_tokens"])
                num_prefix = len(self.tokenizer(prefix, add_special_tokens=adds)["input_ids"])
            ids = self.tokenizer(text, **{**keywords, **(options["tokenizer_encode_kwargs"] or {})})["input_ids"]
        ids = [int(number) for number in ids]
        if options["handle_long_generation"] == "hole":
            ids = leave_room(ids, config, self.model.arch.max_position_embeddings, self.tokenizer)
        if ids:
            return Encoded(prompt, ids, len(ids), num_prefix)
        if config.bos_token_id is None:
            raise EmptyPromptError(
                "prompt", "gives no token, and the model has no bos_token_id to begin with", found=repr(prompt)
            )
        return Encoded(prompt, [config.bos_token_id], 0)

    def _encode_chat(self, chat: Chat, options: dict[str, Any], keywords: dict[str, Any]) -> Any:
        goes_on = continues(chat, options)
        asked = {
            "add_generation_prompt": not goes_on,
            "continue_final_message": goes_on,
            "tools": options["tools"],
            "documents": options["documents"],
            **keywords,
            **(options["tokenizer_encode_kwargs"] or {}),
        }
        return self.tokenizer.apply_chat_template(chat.messages, return_dict=True, **asked)["input_ids"]
