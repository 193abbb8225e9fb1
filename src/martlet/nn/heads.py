"""Heads over a body: masked language modelling and classifiers of rows, tokens, answers' ends and choices."""

# B rows, P padded width, T tokens of all rows end to end, D hidden size, C labels

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.arch import Arch, Head, Parts, Reads, Task
from martlet.errors import ArgumentError
from martlet.nn.cache import KVCache
from martlet.nn.decoder import ACTIVATIONS, CausalLM, Padded, finish, restore_trace, run_padded, start_trace
from martlet.nn.draws import SampleDropout
from martlet.nn.encoder import Encoder, build_body
from martlet.nn.norm import build_norm
from martlet.nn.outputs import HeadOutput, QuestionAnsweringOutput
from martlet.nn.ragged import Ragged

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
IGNORED = -100  # the label of what is not supervised


class LMTransform(nn.Module):
    """norm(activation(dense x)), before the scores over the vocabulary."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.dense = nn.Linear(arch.hidden_size, arch.token_vector_size)
        self.norm = build_norm(arch, arch.token_vector_size)
        self.activation = ACTIVATIONS[arch.activation]

    def forward(self, x_TD: Tensor) -> Tensor:
        out: Tensor = self.norm(self.activation(self.dense(x_TD)))
        return out


class MaskedLM(CausalLM):
    """An encoder and its language-model head: scores of every token at its own place."""

    def __init__(self, arch: Arch) -> None:
        nn.Module.__init__(self)
        self.arch, self.parts = arch, Parts(lm_head=True)
        self.model = Encoder(arch)
        if arch.head_transform:
            self.lm_transform = LMTransform(arch)
        self.lm_head = nn.Linear(arch.token_vector_size, arch.vocab_size, bias=arch.head_bias)
        self.tie_weights()

    def logits(self, hidden_TD: Tensor) -> Tensor:
        return super().logits(self.lm_transform(hidden_TD) if self.arch.head_transform else hidden_TD)

    def forward(  # type: ignore[override]  # as Hugging Face's, without a cache
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits `(B, P, vocab_size)`, zeros at padding; the loss where `labels` (B, P; -100: unsupervised) are given.

        Takes what `Encoder.forward` takes.
        """
        trace = start_trace(self.asked, output_hidden_states, output_attentions)
        padded, out_TD, _ = run_padded(
            self.model, input_ids, attention_mask, position_ids, None, inputs_embeds, False, trace, token_type_ids
        )
        logits_TV, loss = self.logits(out_TD), None
        if labels is not None:
            loss = F.cross_entropy(logits_TV.float(), padded.padding.strip(labels).to(logits_TV.device))
        out = HeadOutput(loss, padded.padding.restore(logits_TV), *restore_trace(padded, trace))
        return finish(self.asked, out, return_dict)


class Classifier(nn.Module):
    """[dropout] [activation(dense x)] dropout, matrix."""

    def __init__(self, head: Head, size: int) -> None:
        super().__init__()
        self.head = head
        if head.drops_first:
            self.first_dropout = SampleDropout(head.dropout)
        if head.dense is not None:
            self.dense = nn.Linear(size, size)
            self.activation = ACTIVATIONS[head.dense]
        self.dropout = SampleDropout(head.dropout)
        self.out = nn.Linear(size, head.num_labels, bias=head.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.head.drops_first:
            x = self.first_dropout(x)
        if self.head.dense is not None:
            x = self.activation(self.dense(x))
        out: Tensor = self.out(self.dropout(x))
        return out


class Headed(nn.Module):
    """A body and a `Head`. `scores` takes ragged states; `forward` of each task takes and gives padded tensors."""

    asked: Any = None
    problem_type: str | None = None

    def __init__(self, arch: Arch, parts: Parts) -> None:
        super().__init__()
        assert parts.head is not None
        self.arch, self.parts = arch, parts
        self.model = build_body(arch, pooler=parts.pooler)
        self.head = Classifier(parts.head, arch.token_vector_size)

    def scores(self, out_TD: Tensor, rows: Ragged) -> Tensor:
        """`(B, C)` from the state of each row that the head reads, or `(T, C)` of every token."""
        read = self.head.head.reads
        if read is Reads.POOLED:
            assert isinstance(self.model, Encoder)
            states = self.model.pooler(out_TD, rows)
        elif read is Reads.EVERY:
            states = out_TD
        else:
            states = out_TD[[start if read is Reads.FIRST else end - 1 for start, end in rows.spans]]
        out: Tensor = self.head(states.to(self.head.out.weight.device))
        return out

    def read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: KVCache | None,
        inputs_embeds: Tensor | None,
        use_cache: bool | None,
        trace: Any,
    ) -> tuple[Padded, Tensor]:
        """The rows and their scores. Without a mask, padding ids at the ends of a row are no part of it."""
        if past_key_values is not None or use_cache:
            raise ArgumentError("model call", "a classifier reads whole rows and keeps no cache", found="use_cache")
        if token_type_ids is not None and self.arch.causal:
            raise ArgumentError("token_type_ids", "this model has no segments")
        pad = None if self.asked is None else self.asked.get("pad_token_id")
        if attention_mask is None and self.arch.causal and input_ids is not None and isinstance(pad, int):
            attention_mask = real_tokens(input_ids, pad)
        padded, out_TD, _ = run_padded(
            self.model, input_ids, attention_mask, position_ids, None, inputs_embeds, False, trace, token_type_ids
        )
        return padded, self.scores(out_TD, padded.rows)


def real_tokens(ids_BP: Tensor, pad: int) -> Tensor:
    """A mask `(B, P)` without the runs of padding at either end of a row; a row of padding alone keeps its first."""
    other = ids_BP != pad
    seen = other.cumsum(1) > 0
    coming = other.flip(1).cumsum(1).flip(1) > 0
    mask = seen & coming
    mask[:, 0] |= ~mask.any(1)
    return mask.long()


class SequenceClassifier(Headed):
    """Scores of each row: by an encoder's first token, by a decoder's last real one."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: KVCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits `(B, C)`, and the loss where `labels` are given.

        `labels`: class numbers (B,), numbers to come near to (B,) or (B, C), or 0 and 1 for each label (B, C), as the
        config's `problem_type` says, or else their shape and dtype. Inputs are the body's.
        """
        trace = start_trace(self.asked, output_hidden_states, output_attentions)
        padded, logits_BC = self.read(
            input_ids, attention_mask, token_type_ids, position_ids, past_key_values, inputs_embeds, use_cache, trace
        )
        loss = None if labels is None else sequence_loss(logits_BC, labels, self.find_problem(labels))
        return finish(self.asked, HeadOutput(loss, logits_BC, *restore_trace(padded, trace)), return_dict)

    def find_problem(self, labels: Tensor) -> str:
        """The problem the labels pose: the config's, or what one label, whole numbers or neither mean."""
        said = None if self.asked is None else self.asked.get("problem_type")
        if said is not None:
            if said not in PROBLEMS:
                raise ArgumentError("problem_type", f"must be one of {', '.join(PROBLEMS)}", found=repr(said))
            return str(said)
        if self.head.head.num_labels == 1:
            return "regression"
        return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


class TokenClassifier(Headed):
    """Scores of each token."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: KVCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits `(B, P, C)`, zeros at padding; the loss where `labels` (B, P; -100: not supervised) are given."""
        trace = start_trace(self.asked, output_hidden_states, output_attentions)
        padded, logits_TC = self.read(
            input_ids, attention_mask, token_type_ids, position_ids, past_key_values, inputs_embeds, use_cache, trace
        )
        loss = None
        if labels is not None:
            loss = class_loss(logits_TC, padded.padding.strip(labels))
        out = HeadOutput(loss, padded.padding.restore(logits_TC), *restore_trace(padded, trace))
        return finish(self.asked, out, return_dict)


class QuestionAnswerer(Headed):
    """Scores of each token as the start and as the end of an answer."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        past_key_values: KVCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """`start_logits` and `end_logits` `(B, P)`, minus infinity at padding: softmax over a row is over its tokens.

        The loss, where `start_positions` and `end_positions` (B,) are given, is the mean of both; a position beyond the
        columns is not supervised.
        """
        trace = start_trace(self.asked, output_hidden_states, output_attentions)
        padded, logits_T2 = self.read(
            input_ids, attention_mask, token_type_ids, position_ids, past_key_values, inputs_embeds, use_cache, trace
        )
        start_BP, end_BP = restore_scores(padded, logits_T2)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (place_loss(start_BP, start_positions) + place_loss(end_BP, end_positions)) / 2
        out = QuestionAnsweringOutput(loss, start_BP, end_BP, *restore_trace(padded, trace))
        return finish(self.asked, out, return_dict)


class MultipleChoice(Headed):
    """One score for each of several rows that belong together."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits `(B, choices)` of inputs `(B, choices, P)`; and the loss of `labels` (B,), the right ones."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None or given.ndim < 3:
            raise ArgumentError(
                "input_ids", "must be (rows, choices, tokens)", found=None if given is None else given.ndim
            )
        flat = [
            None if each is None else each.flatten(0, 1)
            for each in (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        ]
        trace = start_trace(self.asked, output_hidden_states, output_attentions)
        padded, scores = self.read(flat[0], flat[1], flat[2], flat[3], None, flat[4], None, trace)
        logits_BC = scores.view(given.shape[0], given.shape[1])
        loss = None if labels is None else class_loss(logits_BC, labels)
        return finish(self.asked, HeadOutput(loss, logits_BC, *restore_trace(padded, trace)), return_dict)


HEADS: dict[Task, type[Headed]] = {
    Task.SEQUENCE: SequenceClassifier,
    Task.TOKEN: TokenClassifier,
    Task.QUESTION: QuestionAnswerer,
    Task.CHOICE: MultipleChoice,
}


def restore_scores(padded: Padded, logits_T2: Tensor) -> tuple[Tensor, Tensor]:
    """Start and end scores `(B, P)`, minus infinity at padding."""
    padding = padded.padding
    restored = padding.restore(logits_T2)
    if padding.flat_T is not None:
        real = padding.restore(torch.ones(len(logits_T2), 1, dtype=torch.bool, device=logits_T2.device))
        restored = restored.masked_fill(~real, float("-inf"))
    return restored[..., 0].contiguous(), restored[..., 1].contiguous()


def sequence_loss(logits_BC: Tensor, labels: Tensor, problem: str) -> Tensor:
    """Mean squared error, cross-entropy, or binary cross-entropy of each label."""
    labels = labels.to(logits_BC.device)
    if problem == "single_label_classification":
        return class_loss(logits_BC, labels)
    if labels.numel() != logits_BC.numel():
        raise ArgumentError(
            "labels", f"{problem} needs one for each of {list(logits_BC.shape)} scores", found=list(labels.shape)
        )
    if problem == "regression":
        return F.mse_loss(logits_BC.flatten(), labels.flatten().to(logits_BC.dtype))
    return F.binary_cross_entropy_with_logits(logits_BC, labels.view_as(logits_BC).to(logits_BC.dtype))


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labels that are not -100; ArgumentError for a label that is no class."""
    labels = labels.to(logits.device).flatten()
    outside = (labels != IGNORED) & ((labels < 0) | (labels >= logits.shape[-1]))
    if bool(outside.any()):
        raise ArgumentError("labels", f"must be 0 to {logits.shape[-1] - 1}, or -100", found=int(labels[outside][0]))
    return F.cross_entropy(logits.flatten(0, -2), labels, ignore_index=IGNORED)


def place_loss(logits_BP: Tensor, places_B: Tensor) -> Tensor:
    """Mean cross-entropy of each row's place; one beyond the columns is not supervised."""
    width = logits_BP.shape[1]
    places = places_B.to(logits_BP.device).reshape(-1).clamp(0, width)
    return F.cross_entropy(logits_BP, places, ignore_index=width)
