"""The encoder built from an `Arch`: blocks that see whole rows; segments, a norm of embeddings, a pooler."""

# B rows, P padded width, T tokens of all rows end to end, D hidden size

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from martlet.arch import Arch, Parts
from martlet.errors import ArgumentError
from martlet.nn.decoder import Decoder, build_table, finish, restore_trace, run_padded, start_trace
from martlet.nn.norm import build_norm
from martlet.nn.outputs import EncoderOutput
from martlet.nn.ragged import Ragged


class Pooler(nn.Module):
    """tanh(dense(first token)), a summary of each row."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(size, size)

    def forward(self, x_TD: Tensor, rows: Ragged) -> Tensor:
        firsts = [start for start, _ in rows.spans]
        return torch.tanh(self.dense(x_TD[firsts]))


class Encoder(Decoder):
    """Token ids to final hidden states of a bidirectional `arch`, with a pooler if `pooler`."""

    def __init__(self, arch: Arch, *, pooler: bool = False) -> None:
        super().__init__(arch)
        self.parts = Parts(pooler=pooler)
        if arch.token_types:
            self.embed_types = build_table(arch.token_types, arch.hidden_size)
        if arch.embed_norm:
            self.embed_norm = build_norm(arch, arch.hidden_size)
        if pooler:
            self.pooler = Pooler(arch.hidden_size)

    def _embed(self, ids_T: Tensor | None, rows: Ragged, embeds_TD: Tensor | None) -> Tensor:
        x_TD: Tensor = self.embed_words(ids_T, rows, embeds_TD)
        if self.arch.token_types:
            types_T = torch.zeros_like(rows.positions_T) if rows.types_T is None else rows.types_T
            x_TD = x_TD + self.embed_types(types_T)
        elif rows.types_T is not None and bool((rows.types_T != 0).any()):
            raise ArgumentError("token_type_ids", "this model has no segments, so all must be 0")
        if self.arch.position_table:
            x_TD = x_TD + self.embed_positions(rows.positions_T + self.arch.position_offset)
        if self.arch.embed_norm:
            x_TD = self.embed_norm(x_TD)
        dropped: Tensor = self.embed_dropout(x_TD)
        return dropped

    def forward(  # type: ignore[override]  # Hugging Face's order: segments third, no cache
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Final hidden states of a padded batch, and the pooler's output.

        `input_ids` (B, P) int64, or `inputs_embeds` (B, P, D); `attention_mask` (B, P), 1 a real token, 0 padding to
        ignore, anywhere in a row; `token_type_ids` (B, P), 0 unless given. Positions count real tokens from 0 unless
        `position_ids` (B, P) says otherwise.
        """
        trace = start_trace(self.asked, output_hidden_states, output_attentions)
        padded, out_TD, _ = run_padded(
            self, input_ids, attention_mask, position_ids, None, inputs_embeds, False, trace, token_type_ids
        )
        pooled = self.pooler(out_TD, padded.rows) if self.parts.pooler else None
        out = EncoderOutput(padded.padding.restore(out_TD), pooled, *restore_trace(padded, trace))
        return finish(self.asked, out, return_dict)


def build_body(arch: Arch, *, pooler: bool = False) -> Decoder:
    """The body an `arch` asks for."""
    return Decoder(arch) if arch.causal else Encoder(arch, pooler=pooler)
