"""`generate`, as Hugging Face's users call it, and `generate_rows`, the ragged form under it. The work is in loop.py,
beams.py and assisted.py; shapes and padding are door.py's, what the settings mean settings.py's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from martlet.errors import ArgumentError, UnsupportedError
from martlet.generation.backend import Ids, Session
from martlet.generation.choice import read_choice
from martlet.generation.config import GenerationConfig
from martlet.generation.door import (
    check_call,
    check_callables,
    check_ids,
    check_lengths,
    check_streamer,
    open_stream,
    pack_output,
    read_inputs,
    read_negative,
    read_prompts,
    truncate_prompts,
)
from martlet.generation.loop import Decoder
from martlet.generation.outputs import Records, RowResult, open_records
from martlet.generation.processors import build_processors, from_torch_processor
from martlet.generation.rows import Request, open_request
from martlet.generation.sampling import draw_seed
from martlet.generation.settings import check_modes, eos_ids, resolve_config, say_once, with_length
from martlet.generation.stopping import build_stops


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
    kv_cache_dtype: Any = None,
    **kwargs: Any,
) -> Any:
    """Continues each prompt; keywords are Hugging Face's, and `generation_config` fields as keywords win over it.

    `inputs` (or `input_ids`): ids `(B, T)` as a tensor or array, a list of ids, or a list of rows of any lengths;
    None: one BOS. `attention_mask` may have its zeros on either side; door.read_prompts says what happens without it.
    Returns the prompts as given and the new ids, in the kind given: `(B * num_return_sequences, T + longest)`,
    right-padded, or a list a row for lists; with `return_dict_in_generate=True` a `GenerateOutput`. Each row equals
    that row alone. `stop()` is asked before every step; True ends all rows with the reason "cancelled".
    `truncate_prompt` keeps as many last tokens of a long prompt as leave room for `max_new_tokens`, at least half a
    context. On the native engine `kv_cache_bytes`: most memory for keys and values of this call; rows that do not fit
    wait, with the same result. `kv_cache_dtype`: what this call keeps them in ("float16", "bfloat16", "float32");
    GenerationError for a number that it does not hold. ArgumentError, UnsupportedError, GenerationError and its kinds.
    """
    if synced_gpus:
        raise UnsupportedError("generate", "synced_gpus is not supported", remedy="Generate on one process.")
    try:
        check_callables("logits_processor", logits_processor)
        check_callables("stopping_criteria", stopping_criteria)
        check_call(prefix_allowed_tokens_fn=prefix_allowed_tokens_fn, stop=stop)
        check_streamer(streamer)
        config = resolve_config(model, generation_config, kwargs)
        prompts = read_inputs(model, inputs, input_ids, attention_mask, config)
        negative = None
        if negative_prompt_ids is not None:
            negative = read_prompts(
                negative_prompt_ids, negative_prompt_attention_mask, name="negative_prompt_ids"
            ).rows
        if truncate_prompt:
            truncate_prompts(prompts, config, model.arch.max_position_embeddings)
        records = open_records(config)
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
            on_token=None if streamer is None else open_stream(streamer, prompts, config),
            stop=stop,
            records=records,
            kv_cache_bytes=kv_cache_bytes,
            kv_cache_dtype=kv_cache_dtype,
        )
    except BaseException as error:  # whoever reads the stream must hear of it, Ctrl-C too
        if callable(getattr(streamer, "fail", None)):
            streamer.fail(error)
        raise
    if streamer is not None:
        streamer.end()
    return pack_output(prompts, results, records, config)


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
    kv_cache_dtype: Any = None,
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
    negative = read_negative(negative_prompts, len(read.rows))
    for rows, name in ((read.rows, "prompt"), (negative or [], "negative prompt")):
        check_ids(rows, model.arch.vocab_size, name)
        check_lengths(rows, model.arch.max_position_embeddings, name)
    check_modes(config, assistant_model, on_token, negative)
    if num_logprobs is not None and (config.num_beams > 1 or not 0 <= num_logprobs <= model.arch.vocab_size):
        raise ArgumentError("num_logprobs", "must be 0 to the vocabulary's size, without beams", found=num_logprobs)
    processors = [from_torch_processor(process) for process in logits_processor]
    drawn_seed: int | None = None
    requests = []
    for place, ids_T in enumerate(read.rows):
        row = with_length(config.row(place, len(read.rows)), len(ids_T), place)
        request = open_request(config, row, place, ids_T, None if negative is None else negative[place], model.arch)
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
    asked = {"kv_cache_bytes": kv_cache_bytes, "kv_cache_dtype": kv_cache_dtype, "traces": records.keeps_states}
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
            from martlet.generation.beams import BeamDecoder, BeamPlan

            plan = BeamPlan(
                config.num_beams,
                config.num_return_sequences,
                config.length_penalty,
                config.early_stopping,
            )
            return BeamDecoder(session, plan, records, stop, chunk).run(requests)
        if assistant_model is not None or config.prompt_lookup_num_tokens is not None:
            from martlet.generation.assisted import open_drafter

            drafter = open_drafter(model, config, assistant_model)
        return Decoder(session, records, drafter, on_token, stop, chunk).run(requests)
    finally:
        session.close()
        if drafter is not None:
            drafter.close()
