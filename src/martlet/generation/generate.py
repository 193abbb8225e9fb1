"""`generate`, as Hugging Face's users call it, and `generate_rows`, the ragged form under it. The work is in loop.py,
beams.py and assisted.py; shapes and padding are door.py's."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from martlet.errors import ArgumentError, EmptyPromptError, UnsupportedError
from martlet.generation.assisted import DraftModel, PromptLookup
from martlet.generation.backend import Ids, Session, Sizes
from martlet.generation.beams import BeamDecoder, BeamPlan
from martlet.generation.choice import read_choice
from martlet.generation.config import OUTPUT_FLAGS, GenerationConfig
from martlet.generation.door import (
    Prompts,
    check_call,
    check_callables,
    check_ids,
    check_lengths,
    check_streamer,
    pad_right,
    read_prompts,
)
from martlet.generation.loop import Decoder, Drafter
from martlet.generation.outputs import GenerateOutput, Records, RowResult
from martlet.generation.processors import build_processors, from_torch_processor, guide
from martlet.generation.rows import Request
from martlet.generation.sampling import draw_seed
from martlet.generation.stopping import build_stops
from martlet.rope import turns_over

DEFAULT_NEW_TOKENS = 20  # Hugging Face's, when neither max_new_tokens nor max_length is given
SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
UNSUPPORTED = {
    "inputs_embeds": "Pass input_ids.",
    "position_ids": "They follow from attention_mask.",
    "cache_position": "It follows from attention_mask.",
    "past_key_values": "Pass the whole sequence as input_ids.",
    "token_type_ids": "Decoders have none: leave it out.",
    "encoder_outputs": "Only decoder-only models are supported.",
    "decoder_input_ids": "Only decoder-only models are supported.",
    "pixel_values": "Only text is supported.",
    "input_features": "Only text is supported.",
    "assistant_tokenizer": "The assistant must share the model's tokenizer.",
    "custom_generate": "No code is run from a repository; call your function with the model instead.",
}
logger = logging.getLogger("martlet")
_said: set[str] = set()


def generate(
    model: Any,
    inputs: Any = None,
    generation_config: Any = None,
    logits_processor: Sequence[Callable[..., Any]] | None = None,
    stopping_criteria: Sequence[Callable[..., Any]] | None = None,
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None,
    synced_gpus: bool | None = None,
    assistant_model: Any = None,
    streamer: Any = None,
    negative_prompt_ids: Any = None,
    negative_prompt_attention_mask: Any = None,
    *,
    input_ids: Any = None,
    attention_mask: Any = None,
    tokenizer: Any = None,
    stop: Callable[[], bool] | None = None,
    truncate_prompt: bool = False,
    kv_cache_bytes: int | None = None,
    **kwargs: Any,
) -> Any:
    """Continues each prompt; keywords are Hugging Face's, and `generation_config` fields as keywords win over it.

    `inputs` (or `input_ids`): ids `(B, T)` as a tensor or array, a list of ids, or a list of rows of any lengths;
    None: one BOS. `attention_mask` may have its zeros on either side; door.read_prompts says what happens without it.
    Returns the prompts as given and the new ids, in the kind given: `(B * num_return_sequences, T + longest)`,
    right-padded, or a list a row for lists; with `return_dict_in_generate=True` a `GenerateOutput`. Each row equals
    that row alone. `stop()` is asked before every step; True ends all rows with the reason "cancelled".
    `truncate_prompt` keeps as many last tokens of a long prompt as leave room for `max_new_tokens`, at least half a
    context. `kv_cache_bytes`: most memory for keys and values of this call, on the native engine; rows that do not fit
    wait, with the same result. ArgumentError, UnsupportedError, GenerationError and its kinds.
    """
    if synced_gpus:
        raise UnsupportedError("generate", "synced_gpus is not supported", remedy="Generate on one process.")
    try:
        check_callables("logits_processor", logits_processor)
        check_callables("stopping_criteria", stopping_criteria)
        check_call(prefix_allowed_tokens_fn=prefix_allowed_tokens_fn, stop=stop)
        check_streamer(streamer)
        config = resolve_config(model, generation_config, kwargs)
        prompts = _read_inputs(model, inputs, input_ids, attention_mask, config)
        negative = None
        if negative_prompt_ids is not None:
            negative = read_prompts(
                negative_prompt_ids, negative_prompt_attention_mask, name="negative_prompt_ids"
            ).rows
        if truncate_prompt:
            _truncate(prompts, config, model.arch.max_position_embeddings)
        records = _records(config)
        results = generate_rows(
            model,
            prompts.rows,
            config,
            logits_processor=logits_processor or (),
            stopping_criteria=stopping_criteria or (),
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            assistant_model=assistant_model,
            negative_prompts=negative,
            tokenizer=tokenizer,
            on_token=None if streamer is None else _open_stream(streamer, prompts, config),
            stop=stop,
            records=records,
            kv_cache_bytes=kv_cache_bytes,
        )
    except BaseException as error:  # whoever reads the stream must hear of it, Ctrl-C too
        if callable(getattr(streamer, "fail", None)):
            streamer.fail(error)
        raise
    if streamer is not None:
        streamer.end()
    return _pack(prompts, results, records, config)


def generate_rows(
    model: Any,
    prompts: Sequence[Sequence[int] | Ids],
    config: GenerationConfig | None = None,
    *,
    logits_processor: Sequence[Callable[..., Any]] = (),
    stopping_criteria: Sequence[Callable[..., Any]] = (),
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None,
    assistant_model: Any = None,
    negative_prompts: Sequence[Sequence[int] | Ids] | None = None,
    tokenizer: Any = None,
    on_token: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    records: Records | None = None,
    kv_cache_bytes: int | None = None,
    num_logprobs: int | None = None,
) -> list[RowResult]:
    """Continues each row of ids, unpadded in and out; one `RowResult` a sequence, a prompt's sequences together.

    `config` is complete (see `resolve_config`); None takes the model's. `on_token(result number, id)` hears every token
    as it is chosen (not with beams). `num_logprobs` (not with beams) tells log probabilities of each token and of so
    many of the likeliest. Whatever happens, the session is closed.
    """
    config = resolve_config(model, None, {}) if config is None else config
    started_s = time.monotonic()
    read = read_prompts([np.asarray(ids) for ids in prompts], name="prompts")
    negative = _negative_rows(negative_prompts, len(read.rows))
    for rows, name in ((read.rows, "prompt"), (negative or [], "negative prompt")):
        check_ids(rows, model.arch.vocab_size, name)
        check_lengths(rows, model.arch.max_position_embeddings, name)
    _check_modes(config, assistant_model, on_token, negative)
    if num_logprobs is not None and (config.num_beams > 1 or not 0 <= num_logprobs <= model.arch.vocab_size):
        raise ArgumentError("num_logprobs", "must be 0 to the vocabulary's size, without beams", found=num_logprobs)
    processors = [_ours(process) for process in logits_processor]
    drawn_seed: int | None = None
    requests = []
    for place, ids_T in enumerate(read.rows):
        row = _with_length(config.row(place, len(read.rows)), len(ids_T), place)
        request = _request(config, row, place, ids_T, None if negative is None else negative[place], model.arch)
        if row.do_sample and request.seed is None:
            drawn_seed = request.seed = draw_seed() if drawn_seed is None else drawn_seed
        request.processors = build_processors(
            row,
            prompt_length=len(ids_T),
            prompt_ids=ids_T,
            eos_token_ids=eos_ids(row),
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            row=place,
            extra=processors,
        )
        request.stops = build_stops(
            row, prompt_length=len(ids_T), tokenizer=tokenizer, extra=stopping_criteria, started_s=started_s
        )
        request.num_logprobs = num_logprobs
        choice, request.is_watched = read_choice(
            request.processors, request.stops, request.seed, request.end, num_logprobs
        )
        request.choice = choice if request.guidance is None and not request.repairs_logits else None
        requests.append(request)
    records = records or Records()
    asked = {"kv_cache_bytes": kv_cache_bytes, "traces": records.keeps_states}
    session = model.open_session(
        **{name: value for name, value in asked.items() if value is not None and value is not False}
    )
    results = _run(model, session, config, requests, assistant_model, on_token, stop, records)
    if full := next((result for result in results if result.reason == "context"), None):
        num_prompt, num_new = len(full.prompt_ids), len(full.new_ids)
        say_once(
            f"generation stopped at the end of the model's context of {model.arch.max_position_embeddings} tokens: "
            f"after a prompt of {num_prompt} there was room for {num_new} new tokens",
            subject="context",
        )
    return results


def resolve_config(model: Any, generation_config: Any, fields: Mapping[str, Any]) -> GenerationConfig:
    """The model's generation config, then what `generation_config` sets, then `fields`: the later win.

    `generation_config` may be ours, Hugging Face's, or a mapping. ArgumentError for an unknown field.
    """
    for name, value in fields.items():
        if name in UNSUPPORTED and value is not None:
            raise UnsupportedError("generate", f"{name} is not supported", remedy=UNSUPPORTED[name])
    config = getattr(model, "generation_config", None) or GenerationConfig()
    if generation_config is not None:
        config = config.but("generation_config", **_set_fields(generation_config))
    given = {name: value for name, value in fields.items() if name not in UNSUPPORTED}
    if given:
        config = config.but("generate", **given)
    idle = [name for name in SAMPLING_FIELDS if given.get(name) is not None]
    if idle and not config.do_sample:
        say_once(f"generate: {', '.join(idle)} given, but do_sample is False, so the likeliest token is always chosen")
    unseen = [name for name in OUTPUT_FLAGS if given.get(name)]
    if unseen and not config.return_dict_in_generate:
        say_once(f"generate: {', '.join(unseen)} given, but only return_dict_in_generate=True returns them")
    return config


def eos_ids(config: GenerationConfig) -> list[int]:
    """The ids that end a sequence, none or more; of all rows, for a config that has them row by row."""
    ids = config.eos_token_id
    flat = [ids] if not isinstance(ids, list | tuple) else ids
    nested = [each if isinstance(each, list | tuple) else [each] for each in flat]
    return [int(each) for row in nested for each in row if each is not None and each >= 0]


def say_once(message: str, subject: str = "") -> None:
    """Logs a message the first time it, or one of its `subject`, is said in this process."""
    if (subject or message) not in _said:
        _said.add(subject or message)
        logger.warning(message)


def _request(
    config: GenerationConfig, row: GenerationConfig, place: int, ids_T: Ids, negative_T: Ids | None, arch: Sizes
) -> Request:
    """A row's request but for its processors and stops."""
    num_sequences = 1 if config.num_beams > 1 else config.num_return_sequences
    scale = 1.0 if row.guidance_scale is None else row.guidance_scale
    num_read = len(ids_T) if scale == 1.0 or negative_T is None else max(len(ids_T), len(negative_T))
    # A prompt that fills the context still has the one token that its last position says.
    room = max(1, arch.max_position_embeddings - num_read)
    has_own_seed = (
        isinstance(config.seed, list | tuple) and row.seed is not None
    )  # and draws the same whatever its place among the rows
    return Request(
        index=place,
        ids_T=ids_T,
        end=len(ids_T) + room,
        max_new_tokens=min(row.max_new_tokens, room),
        num_sequences=num_sequences,
        num_eos=len(eos_ids(row)),
        seed=row.seed if row.do_sample else None,
        first_stream=0 if has_own_seed else place * num_sequences,
        guidance=None if scale == 1.0 else partial(guide, scale=scale),
        negative_ids_T=negative_T,
        repairs_logits=bool(row.remove_invalid_values),
        turns_over=_turns_of(arch),
    )


def _turns_of(arch: Any) -> Callable[[int, int], bool]:
    """Whether a row that grows from one length past another has all its keys turned anew (longrope, dynamic)."""
    ropes = {layer.rope for layer in getattr(arch, "layers", ()) if layer.rope}
    return lambda length, grown: any(turns_over(rope, length, grown) for rope in ropes)


def _run(
    model: Any,
    session: Session,
    config: GenerationConfig,
    requests: list[Request],
    assistant_model: Any,
    on_token: Callable[[int, int], None] | None,
    stop: Callable[[], bool] | None,
    records: Records,
) -> list[RowResult]:
    drafter = None
    try:
        chunk = config.prefill_chunk_size
        if config.num_beams > 1:
            plan = BeamPlan(
                config.num_beams,
                config.num_return_sequences,
                config.length_penalty,
                config.early_stopping,
            )
            return BeamDecoder(session, plan, records, stop, chunk).run(requests)
        drafter = _drafter(model, config, assistant_model)
        return Decoder(session, records, drafter, on_token, stop, chunk).run(requests)
    finally:
        session.close()
        if drafter is not None:
            drafter.close()


def _drafter(model: Any, config: GenerationConfig, assistant: Any) -> Drafter | None:
    if config.prompt_lookup_num_tokens is not None:
        return PromptLookup(config.prompt_lookup_num_tokens, config.max_matching_ngram_size or 2)
    if assistant is None:
        return None
    if not hasattr(assistant, "open_session"):
        raise ArgumentError("assistant_model", "must be a model loaded by martlet", found=type(assistant).__name__)
    if assistant.arch.vocab_size != model.arch.vocab_size:
        raise UnsupportedError(
            "assistant_model",
            f"its vocabulary must be the model's, {model.arch.vocab_size} ids",
            found=f"{assistant.arch.vocab_size} ids",
            remedy="Assistants with another tokenizer are not supported.",
        )

    def setting(name: str, default: Any) -> Any:
        values = (getattr(each, name, None) for each in (config, getattr(assistant, "generation_config", None)))
        return next((value for value in values if value is not None), default)

    return DraftModel(
        assistant.open_session(),
        num_tokens=setting("num_assistant_tokens", 20),
        schedule=setting("num_assistant_tokens_schedule", "constant"),
        least_confidence=setting("assistant_confidence_threshold", 0.4),
        context=assistant.arch.max_position_embeddings,
        prefill_chunk_size=config.prefill_chunk_size,
    )


def _read_inputs(model: Any, inputs: Any, input_ids: Any, mask: Any, config: GenerationConfig) -> Prompts:
    if inputs is not None and input_ids is not None:
        raise ArgumentError("generate", "takes inputs or input_ids, not both")
    given = input_ids if inputs is None else inputs
    if given is not None:
        return read_prompts(given, mask, pad_id=config.pad_token_id, eos_ids=eos_ids(config), name="input_ids")
    if config.bos_token_id is None:
        raise EmptyPromptError(
            "generate", "needs input_ids, for the model has no bos_token_id to begin with", remedy="Pass input_ids."
        )
    bos: Any = np.array([[config.bos_token_id]])
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        bos = torch.from_numpy(bos).to(model.device)
    return read_prompts(bos, mask, name="input_ids")


def _truncate(prompts: Prompts, config: GenerationConfig, context: int) -> None:
    for place, ids_T in enumerate(prompts.rows):
        row = config.row(place, len(prompts.rows))
        num_new = row.max_new_tokens
        if num_new is None:
            num_new = DEFAULT_NEW_TOKENS if row.max_length is None else 1
        if len(ids_T) + num_new > context:
            prompts.keep_last(place, max(context - num_new, context // 2, 1))


def _negative_rows(negative: Sequence[Sequence[int] | Ids] | None, num_rows: int) -> list[Ids] | None:
    """One row a prompt; a single one serves all."""
    if negative is None:
        return None
    rows = read_prompts([np.asarray(ids) for ids in negative], name="negative prompts").rows
    if len(rows) not in (1, num_rows):
        raise ArgumentError(
            "negative_prompt_ids",
            f"must have one row, or one for each of {num_rows} prompts",
            found=f"{len(rows)} rows",
        )
    return rows * num_rows if len(rows) == 1 else rows


def _with_length(row: GenerationConfig, num_prompt: int, place: int) -> GenerationConfig:
    """The row's config with `max_new_tokens` settled."""
    if row.max_new_tokens is not None:
        _check_least(row, num_prompt, row.max_new_tokens)
        return row
    num_new = DEFAULT_NEW_TOKENS if row.max_length is None else row.max_length - num_prompt
    if num_new < 1:
        raise ArgumentError(
            f"prompt row {place}",
            f"max_length ({row.max_length}) counts the prompt and must be greater than its {num_prompt} tokens",
            remedy="Raise it, or set max_new_tokens.",
        )
    _check_least(row, num_prompt, num_new)
    return row.but("max_length", max_new_tokens=num_new, max_length=None)


def _check_least(row: GenerationConfig, num_prompt: int, num_new: int) -> None:
    """ArgumentError if one call asks for more tokens than it allows; a log line if one of the two was a default."""
    name = "min_length" if row.min_new_tokens is None else "min_new_tokens"
    least = (row.min_length or 0) - num_prompt if row.min_new_tokens is None else row.min_new_tokens
    if least <= num_new:
        return
    rule = f"asks for {least} new tokens, and at most {num_new} are allowed"
    if row.origin(name) == "generate" == row.origin("max_new_tokens"):
        raise ArgumentError(name, rule, remedy="Raise max_new_tokens.")
    say_once(f"{name} {rule}", subject=name)


def _check_modes(config: GenerationConfig, assistant: Any, on_token: Any, negative: Any) -> None:
    beams, returned = config.num_beams, config.num_return_sequences
    drafts = assistant is not None or config.prompt_lookup_num_tokens is not None
    if negative is not None and config.guidance_scale in (None, 1.0):
        say_once("generate: negative_prompt_ids given, but without a guidance_scale other than 1 they change nothing")
    if beams > 1 and returned > beams:
        raise ArgumentError("num_return_sequences", f"must be at most num_beams ({beams})", found=returned)
    if beams == 1 and returned > 1 and not config.do_sample:
        raise ArgumentError(
            "num_return_sequences",
            "must be 1 for greedy decoding, which has one result",
            found=returned,
            remedy="Set do_sample=True or num_beams.",
        )
    if beams > 1 and drafts:
        raise ArgumentError("num_beams", "must be 1 with an assistant or prompt lookup", found=beams)
    if beams > 1 and on_token is not None:
        raise ArgumentError("num_beams", "must be 1 to stream: beams change until the end", found=beams)
    if assistant is not None and config.prompt_lookup_num_tokens is not None:
        raise ArgumentError("generate", "takes assistant_model or prompt_lookup_num_tokens, not both")


def _open_stream(streamer: Any, prompts: Prompts, config: GenerationConfig) -> Callable[[int, int], None]:
    """Puts the prompt `(1, T)`; returns what puts the tokens `(1,)` after it."""
    num_rows = len(prompts.rows) * config.num_return_sequences
    if num_rows > 1:
        raise ArgumentError("streamer", "takes one sequence", found=num_rows, remedy="Generate them one at a time.")
    streamer.put(prompts.convert(prompts.rows[0][None], on_cpu=True))
    return lambda row, token: streamer.put(prompts.convert(np.array([token]), on_cpu=True))


def _ours(process: Callable[..., Any]) -> Callable[..., Any]:
    """Hugging Face's processors take tensors `(1, T)` and `(1, V)`; one marked `takes_numpy` arrays `(T,)`, `(V,)`."""
    return process if getattr(process, "takes_numpy", False) else from_torch_processor(process)


def _set_fields(config: Any) -> dict[str, Any]:
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise ArgumentError("generation_config", "must be a GenerationConfig or a dict", found=type(config).__name__)
    fields = dict(config) if isinstance(config, Mapping) else config.to_dict()
    return {name: value for name, value in fields.items() if value is not None}


def _records(config: GenerationConfig) -> Records:
    if not config.return_dict_in_generate:
        return Records()
    return Records(
        keeps_scores=bool(config.output_scores),
        keeps_logits=bool(config.output_logits),
        keeps_hidden_states=bool(config.output_hidden_states),
        keeps_attentions=bool(config.output_attentions),
    )


def _pack(prompts: Prompts, results: list[RowResult], records: Records, config: GenerationConfig) -> Any:
    ends = eos_ids(config)
    pad_id = config.pad_token_id if config.pad_token_id is not None else ends[0] if ends else 0
    sequences = prompts.pack_sequences(results, pad_id)
    if not config.return_dict_in_generate:
        return sequences
    has_beams = config.num_beams > 1
    num_running = len(prompts.rows) * (config.num_beams if has_beams else config.num_return_sequences)
    output = GenerateOutput(
        sequences,
        finish_reasons=[result.reason for result in results],
        num_new_tokens=[len(result.new_ids) for result in results],
    )
    if records.keeps_scores:
        output.scores = prompts.pack_vectors(records.scores, num_running)
    if records.keeps_logits:
        output.logits = prompts.pack_vectors(records.logits, num_running)
    if records.keeps_hidden_states:
        output.hidden_states = prompts.pack_states(records.hidden_states, num_running)
    if records.keeps_attentions:
        output.attentions = prompts.pack_attentions(records.attentions, num_running)
    if has_beams:
        if records.keeps_scores:
            scores = np.array([result.score for result in results], dtype=np.float32)
            output.sequences_scores = prompts.convert(scores)
        chosen = [np.array(result.beam_indices) for result in results]
        output.beam_indices = prompts.convert(pad_right(chosen, -1))
    return output
