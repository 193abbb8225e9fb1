"""The decoder built from an `Arch`: embeddings, blocks, final norm, head. Ragged inside, padded at its `forward`."""

# B rows, P padded width, T tokens of all rows end to end, D hidden size, R rotated dimensions

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.arch import Activation, Arch, Layer, Parts, Placement, Rope, RopeScaling, block_norms
from martlet.errors import ArgumentError, UnsupportedError
from martlet.nn.attention import Attention
from martlet.nn.cache import KVCache, RowCache
from martlet.nn.compute import is_plain
from martlet.nn.draws import SampleDropout
from martlet.nn.lean import gated_product, gated_silu
from martlet.nn.norm import build_norm
from martlet.nn.outputs import CausalLMOutput, Fields, ModelOutput
from martlet.nn.ragged import Padding, Ragged, find_padding, ragged_rows
from martlet.rope import frequencies, turns_over

Map = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[Activation, Map] = {
    Activation.SILU: F.silu,
    Activation.GELU: F.gelu,
    Activation.GELU_TANH: lambda x: F.gelu(x, approximate="tanh"),
    Activation.RELU: F.relu,
    Activation.TANH: torch.tanh,
}


@dataclass
class Trace:
    """What a forward pass is asked to keep: each layer's states `(T, D)`, each layer's row attentions."""

    states: list[Tensor] | None = None
    attentions: list[list[Tensor]] | None = None


def start_trace(asked: Any, hidden_states: bool | None, attentions: bool | None) -> Trace:
    """What a call asks to keep; what it leaves open, `asked` (a config) answers."""
    keeps_states = _pick(asked, "output_hidden_states", hidden_states, False)
    keeps_attentions = _pick(asked, "output_attentions", attentions, False)
    return Trace([] if keeps_states else None, [] if keeps_attentions else None)


def finish(asked: Any, out: Fields, return_dict: bool | None) -> Any:
    """`out`, or its values alone where the call or the config asks for a tuple."""
    return out if _pick(asked, "return_dict", return_dict, True) else out.to_tuple()


def _pick(asked: Any, key: str, given: bool | None, otherwise: bool) -> bool:
    if given is not None:
        return given
    found = None if asked is None else asked.get(key)
    return otherwise if found is None else bool(found)


def keeps_cache(module: Any, use_cache: bool | None) -> bool:
    """Whether a call returns keys and values: as asked, else as the config says, and not while training."""
    if use_cache is not None:
        return use_cache
    return not module.training and _pick(module.asked, "use_cache", None, True)


class MLP(nn.Module):
    """down(act(gate x) * up x), or down(act(up x))."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        hidden, ffn, bias = arch.hidden_size, arch.intermediate_size, arch.mlp_bias
        if arch.gated:
            self.gate_proj = nn.Linear(hidden, ffn, bias)
        self.up_proj = nn.Linear(hidden, ffn, bias)
        self.down_proj = nn.Linear(ffn, hidden, bias)
        self.gated, self.activation = arch.gated, ACTIVATIONS[arch.activation]

    def forward(self, x_TD: Tensor) -> Tensor:
        result: Tensor
        up = self.up_proj(x_TD)
        if self.activation is F.silu and self.gated:
            gate, down = self.gate_proj(x_TD), self.down_proj
            if self.training and not torch.is_autocast_enabled(x_TD.device.type):
                if is_plain(down):
                    return gated_product(gate, up, down.weight, down.bias)
                if (adapted := getattr(down, "gated", None)) is not None:
                    result = adapted(gate, up)
                    return result
            mixed = gated_silu(gate, up)
        else:
            mixed = self.activation(self.gate_proj(x_TD)) * up if self.gated else self.activation(up)
        result = self.down_proj(mixed)
        return result


class Block(nn.Module):
    """Attention and MLP around the residual stream, norms where the arch's `Placement` puts them."""

    def __init__(self, arch: Arch, layer: Layer, index: int) -> None:
        super().__init__()
        self.placement, self.residual_scale = arch.placement, arch.residual_scale
        self.self_attn = Attention(arch, layer, index)
        self.mlp = MLP(arch)
        for name in block_norms(arch):
            self.add_module(name, build_norm(arch, arch.hidden_size))
        self.norm_names = block_norms(arch)
        self.attn_dropout, self.mlp_dropout = (SampleDropout(arch.dropout.residual) for _ in range(2))

    def forward(self, x: Tensor, *attention: Any) -> Tensor:
        norms: list[Map] = [self.get_submodule(name) for name in self.norm_names]
        scale = self.residual_scale

        def attend(states: Tensor) -> Tensor:
            out: Tensor = self.attn_dropout(self.self_attn(states, *attention))
            return out

        def mlp(states: Tensor) -> Tensor:
            out: Tensor = self.mlp_dropout(self.mlp(states))
            return out

        match self.placement:
            case Placement.PRE:
                x = x + attend(norms[0](x)) * scale
                return x + mlp(norms[1](x)) * scale
            case Placement.POST:
                x = norms[0](x + attend(x) * scale)
                return norms[1](x + mlp(x) * scale)
            case Placement.OUTPUT:
                x = x + norms[0](attend(x)) * scale
                return x + norms[1](mlp(x)) * scale
            case Placement.SANDWICH:
                x = x + norms[1](attend(norms[0](x))) * scale
                return x + norms[3](mlp(norms[2](x))) * scale
            case Placement.PARALLEL:
                return x + (attend(norms[0](x)) + mlp(norms[1](x))) * scale
            case Placement.PARALLEL_SHARED:
                normed = norms[0](x)
                return x + (attend(normed) + mlp(normed)) * scale


def build_table(num_rows: int, width: int) -> nn.Embedding:
    # with a weight given nothing is drawn: normal_ on the meta device imports torch._dynamo, a second and 60 MB
    return nn.Embedding(num_rows, width, _weight=torch.zeros(num_rows, width))


class Decoder(nn.Module):
    """Token ids to final hidden states. `run` takes ragged rows; `forward` takes and gives padded tensors."""

    asked: Any = None  # a config whose output_* and return_dict stand where a call leaves them open

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.arch, self.parts = arch, Parts()
        self.embed_tokens = build_table(arch.vocab_size, arch.token_vector_size)
        if arch.position_table:
            self.embed_positions = build_table(arch.position_table, arch.hidden_size)
        if arch.embedding_size:
            self.project_in = nn.Linear(arch.embedding_size, arch.hidden_size, bias=False)
            self.project_out = nn.Linear(arch.hidden_size, arch.embedding_size, bias=False)
        self.layers = nn.ModuleList(Block(arch, layer, index) for index, layer in enumerate(arch.layers))
        if arch.final_norm:
            self.norm = build_norm(arch, arch.hidden_size)
        self.embed_dropout = SampleDropout(arch.dropout.embeddings)
        self.gradient_checkpointing = False

    def run(
        self,
        ids_T: Tensor | None,
        rows: Ragged,
        caches: list[RowCache] | None,
        trace: Trace,
        embeds_TD: Tensor | None = None,
    ) -> Tensor:
        """Hidden states `(T, D)` of rows laid end to end, after the final norm; appends to the caches if given."""
        x_TD = self._embed(ids_T, rows, embeds_TD)
        turns = self._turns(rows)
        for index, block in enumerate(self.layers):
            if trace.states is not None:
                trace.states.append(x_TD)
            weights: list[Tensor] | None = None
            if trace.attentions is not None:
                trace.attentions.append(weights := [])
            rope = self.arch.layers[index].rope
            turn = turns[rope] if rope else None
            device = next(block.parameters()).device
            if device != x_TD.device:  # layers spread over devices by a device map
                x_TD = x_TD.to(device)
            if turn is not None and turn[0].device != device:
                turn = (turn[0].to(device), turn[1].to(device))
            if self.gradient_checkpointing and self.training:
                x_TD = torch.utils.checkpoint.checkpoint(block, x_TD, rows, turn, caches, weights, use_reentrant=False)
            else:
                x_TD = block(x_TD, rows, turn, caches, weights)
        if self.arch.final_norm:
            x_TD = self.norm(x_TD.to(self.norm.weight.device))
        if self.arch.embedding_size:
            x_TD = self.project_out(x_TD)
        if trace.states is not None:
            trace.states.append(x_TD)
        if caches is not None:
            for cache, length in zip(caches, rows.lengths, strict=True):
                cache.advance(length)
        return x_TD

    def _embed(self, ids_T: Tensor | None, rows: Ragged, embeds_TD: Tensor | None) -> Tensor:
        arch = self.arch
        x_TD = self.embed_words(ids_T, rows, embeds_TD)
        if arch.embed_scale != 1.0:
            # in the weights' dtype: Gemma was trained with the scale rounded to it
            x_TD = x_TD * torch.tensor(arch.embed_scale, dtype=x_TD.dtype, device=x_TD.device)
        if arch.embedding_size:
            x_TD = self.project_in(x_TD)
        if arch.position_table:
            x_TD = x_TD + self.embed_positions(rows.positions_T + arch.position_offset)
        dropped: Tensor = self.embed_dropout(x_TD)
        return dropped

    def embed_words(self, ids_T: Tensor | None, rows: Ragged, embeds_TD: Tensor | None) -> Tensor:
        """The token vectors `(T, D)`; ArgumentError for a row longer than a table of positions."""
        longest = max((past + new for past, new in zip(rows.past, rows.lengths, strict=True)), default=0)
        if self.arch.position_table and longest > self.arch.position_table - self.arch.position_offset:
            raise ArgumentError(
                "input_ids",
                f"a row must not be longer than the {self.arch.max_position_embeddings} positions of the model",
                found=f"{longest} tokens",
                remedy="Call the tokenizer with truncation=True.",
            )
        if embeds_TD is not None:
            return embeds_TD
        assert ids_T is not None
        vectors: Tensor = self.embed_tokens(ids_T.to(self.embed_tokens.weight.device))
        return vectors

    def _turns(self, rows: Ragged) -> dict[Rope, tuple[Tensor, Tensor]]:
        return {
            rope: turn_table(rope, self.arch.head_dim, rows)
            for rope in {layer.rope for layer in self.arch.layers}
            if rope
        }

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: KVCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: KVCache | None = None,
    ) -> Any:
        """Final hidden states of a padded batch.

        `input_ids` (B, P) int64, or `inputs_embeds` (B, P, D); `attention_mask` (B, P), 1 a real token, 0 padding to
        ignore, anywhere in a row. Positions count real tokens unless `position_ids` (B, P) says otherwise. `cache` is
        the newer name of `past_key_values`.
        """
        states = start_trace(self.asked, output_hidden_states, output_attentions)
        keeps = keeps_cache(self, use_cache)
        padded, out_TD, kept = run_padded(
            self, input_ids, attention_mask, position_ids, past_key_values or cache, inputs_embeds, keeps, states
        )
        out = ModelOutput(padded.padding.restore(out_TD), kept, *restore_trace(padded, states))
        return finish(self.asked, out, return_dict)


class CausalLM(nn.Module):
    """A decoder and its language-model head."""

    asked: Any = None

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.arch, self.parts = arch, Parts(lm_head=True)
        self.model = Decoder(arch)
        self.lm_head = nn.Linear(arch.token_vector_size, arch.vocab_size, bias=arch.head_bias)
        self.tie_weights()

    def tie_weights(self) -> None:
        """A tied head is the embedding table itself, one tensor under two names."""
        if self.arch.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Scores over the vocabulary, in the weights' dtype."""
        out: Tensor = self.lm_head(hidden_TD.to(self.lm_head.weight.device))
        if self.arch.logit_scale != 1.0:
            out = out * self.arch.logit_scale
        if self.arch.logit_softcap:
            out = torch.tanh(out / self.arch.logit_softcap) * self.arch.logit_softcap
        return out

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: KVCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        cache: KVCache | None = None,
    ) -> Any:
        """Logits of a padded batch, and the loss where `labels` (B, P; -100: not supervised) are given.

        Takes what `Decoder.forward` takes. `logits_to_keep` n > 0 computes those of the last n columns alone.
        """
        states = start_trace(self.asked, output_hidden_states, output_attentions)
        keeps = keeps_cache(self, use_cache)
        padded, out_TD, kept = run_padded(
            self.model, input_ids, attention_mask, position_ids, past_key_values or cache, inputs_embeds, keeps, states
        )
        if logits_to_keep:
            logits = self.logits(padded.padding.restore(out_TD)[:, -logits_to_keep:])
        else:
            logits = padded.padding.restore(self.logits(out_TD))
        loss = None if labels is None else causal_loss(logits, labels)
        out = CausalLMOutput(loss, logits, kept, *restore_trace(padded, states))
        return finish(self.asked, out, return_dict)


def causal_loss(logits_BPV: Tensor, labels_BP: Tensor) -> Tensor:
    """Mean cross-entropy of each next token, over the labels that are not -100."""
    scores = logits_BPV[:, :-1].float().flatten(0, 1)
    return F.cross_entropy(scores, labels_BP[:, 1:].flatten().to(scores.device), ignore_index=-100)


def turn_table(rope: Rope, head_dim: int, rows: Ragged) -> tuple[Tensor, Tensor]:
    """cos and sin of every token's angles, `(T, R)` float32: each pair's angle stands twice."""
    device = rows.positions_T.device
    if rope.scaling in (RopeScaling.LONGROPE, RopeScaling.DYNAMIC):
        tables = []
        for past, new in zip(rows.past, rows.lengths, strict=True):
            per_row = torch.from_numpy(frequencies(rope, head_dim, past + new))
            tables.append(per_row.expand(new, -1))
        angles = rows.positions_T[:, None].float() * torch.cat(tables).to(device)
    else:
        angles = rows.positions_T[:, None].float() * torch.from_numpy(frequencies(rope, head_dim, 0)).to(device)
    angles = torch.cat((angles, angles), -1)
    return angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor


@dataclass(frozen=True, slots=True)
class Padded:
    padding: Padding
    rows: Ragged
    masks: list[Tensor] = field(default_factory=list)


def run_padded(
    decoder: Decoder,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    past: KVCache | None,
    inputs_embeds: Tensor | None,
    use_cache: bool,
    trace: Trace,
    token_type_ids: Tensor | None = None,
) -> tuple[Padded, Tensor, KVCache | None]:
    """Strips the padding, runs the rows, and returns how to put the padding back."""
    given = input_ids if input_ids is not None else inputs_embeds
    if given is None or (input_ids is not None and inputs_embeds is not None):
        raise ArgumentError("model call", "exactly one of input_ids and inputs_embeds must be given")
    shape = (given.shape[0], given.shape[1])
    device = decoder.embed_tokens.weight.device
    padding, lengths = find_padding(shape, attention_mask)
    if use_cache and past is None:
        past = KVCache(shape[0], decoder.arch.num_layers)
    if past is not None and not past.rows:
        past.open(shape[0], decoder.arch.num_layers)
    held = tuple(row.length for row in past.rows) if past else (0,) * shape[0]
    if len(held) != shape[0]:
        raise ArgumentError("past_key_values", f"must have a row for each of {shape[0]} rows", found=len(held))
    _refuse_turned_cache(decoder.arch, held, lengths)
    rows = ragged_rows(lengths, held, device)
    if position_ids is not None:
        positions = padding.strip(position_ids.to(device).expand(shape)).long()
        rows = Ragged(rows.lengths, rows.past, positions)
    if token_type_ids is not None:
        rows = replace(rows, types_T=padding.strip(token_type_ids.to(device).expand(shape)).long())
    ids_T = None if input_ids is None else padding.strip(input_ids)
    embeds_TD = None if inputs_embeds is None else padding.strip(inputs_embeds)
    out = decoder.run(ids_T, rows, past.rows if past else None, trace, embeds_TD)
    return Padded(padding, rows), out, past if use_cache or past else None


def _refuse_turned_cache(arch: Arch, held: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    for rope in {layer.rope for layer in arch.layers if layer.rope}:
        for before, new in zip(held, lengths, strict=True):
            if before and turns_over(rope, before, before + new):
                raise UnsupportedError(
                    "past_key_values",
                    f"{rope.scaling.value} scaling turns keys anew once a row passes {rope.original_positions} tokens",
                    found=f"{before} cached and {new} new tokens",
                    remedy="Call the model again on the whole row; generate does so by itself.",
                )


def restore_trace(padded: Padded, trace: Trace) -> tuple[tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
    """A trace's ragged states and attentions as padded tensors, zeros at padding."""
    states = None
    if trace.states is not None:
        states = tuple(padded.padding.restore(state) for state in trace.states)
    if trace.attentions is None:
        return states, None
    return states, tuple(_pad_attention(padded, per_row) for per_row in trace.attentions)


def _pad_attention(padded: Padded, per_row: list[Tensor]) -> Tensor:
    padding = padded.padding
    past = max(padded.rows.past)
    first = per_row[0]
    out = first.new_zeros((padding.num_rows, first.shape[0], padding.width, past + padding.width))
    every = torch.arange(padding.num_rows * padding.width, device=first.device)
    real = every if padding.flat_T is None else padding.flat_T.to(first.device)
    for row, (start, end) in enumerate(padded.rows.spans):
        columns = real[start:end] % padding.width
        held = padded.rows.past[row]
        seen = torch.cat((torch.arange(past - held, past, device=first.device), columns + past))
        out[row][:, columns[:, None], seen[None]] = per_row[row]
    return out
