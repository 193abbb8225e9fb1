"""BERT and its kin: encoders with learned positions, LayerNorm after each addition, a transformed head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from martlet.arch import Activation, Arch, Layer, Norm, Placement, Reads, Task
from martlet.families.decoder import read_activation, read_dropout, read_head_dim
from martlet.families.reader import Reader
from martlet.families.registry import HeadForm, family
from martlet.weights import Rule, drop, rename

DROPOUTS = ("classifier_dropout", "hidden_dropout_prob")


def body_rules(prefix: str) -> tuple[Rule, ...]:
    """Names of the body, which all of them share."""
    return (
        drop("embeddings.position_ids"),
        rename(f"^{prefix}", "^model."),
        rename("^model.embeddings.word_embeddings.", "^model.embed_tokens."),
        rename("^model.embeddings.position_embeddings.", "^model.embed_positions."),
        rename("^model.embeddings.token_type_embeddings.", "^model.embed_types."),
        rename("^model.embeddings.LayerNorm.", "^model.embed_norm."),
        rename("^model.encoder.layer.", "^model.layers."),
        rename(".attention.self.query.", ".self_attn.q_proj."),
        rename(".attention.self.key.", ".self_attn.k_proj."),
        rename(".attention.self.value.", ".self_attn.v_proj."),
        rename(".attention.output.dense.", ".self_attn.o_proj."),
        rename(".attention.output.LayerNorm.", ".input_layernorm."),
        rename(".intermediate.dense.", ".mlp.up_proj."),
        rename(".output.dense.", ".mlp.down_proj."),
        rename(".output.LayerNorm.", ".post_attention_layernorm."),
    )


BERT_RULES = (
    drop("^cls.seq_relationship."),  # the next-sentence head of pretraining
    drop("^cls.predictions.decoder.bias"),  # a second name of cls.predictions.bias
    *body_rules("bert."),
    rename("^cls.predictions.transform.dense.", "^lm_transform.dense."),
    rename("^cls.predictions.transform.LayerNorm.", "^lm_transform.norm."),
    rename("^cls.predictions.decoder.weight", "^lm_head.weight"),
    rename("^cls.predictions.bias", "^lm_head.bias"),
)
LM_HEAD_RULES = (
    drop("^lm_head.decoder.bias"),  # a second name of lm_head.bias
    rename("^lm_head.dense.", "^lm_transform.dense."),
    rename("^lm_head.layer_norm.", "^lm_transform.norm."),
    rename("^lm_head.decoder.weight", "^lm_head.weight"),
)
POOLED = HeadForm("classifier", Reads.POOLED, dropout=DROPOUTS, default_dropout=0.1)
TAGGED = HeadForm("classifier", dropout=DROPOUTS, default_dropout=0.1)
SPANS = HeadForm("qa_outputs")
BERT_HEADS = {Task.SEQUENCE: POOLED, Task.TOKEN: TAGGED, Task.QUESTION: SPANS, Task.CHOICE: POOLED}
ROBERTA_HEADS = BERT_HEADS | {
    Task.SEQUENCE: HeadForm(
        "classifier.out_proj",
        Reads.FIRST,
        dense="classifier.dense",
        activation=Activation.TANH,
        dropout=DROPOUTS,
        default_dropout=0.1,
        drops_first=True,
    )
}


def encoder(c: Reader, *, offset: int = 0) -> Arch:
    """The frame of a BERT-like config. `offset`: rows of the position table that no token uses."""
    c.neutral("is_decoder", False)
    c.neutral("add_cross_attention", False)
    c.neutral("position_embedding_type", "absolute")
    c.neutral("tie_word_embeddings", True)  # untied, two tensors of the checkpoint claim to be the head's bias
    heads, rows = c.size("num_attention_heads"), c.size("max_position_embeddings", 512)
    return Arch(
        vocab_size=c.size("vocab_size"),
        hidden_size=c.size("hidden_size"),
        intermediate_size=c.size("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=read_head_dim(c),
        layers=(Layer(rope=None),) * c.num_layers(),
        max_position_embeddings=rows - offset,
        norm_eps=c.number("layer_norm_eps", 1e-12),
        position_table=rows,
        position_offset=offset,
        token_types=c.size("type_vocab_size", 2),
        activation=read_activation(c, default="gelu"),
        pooler=True,
        dropout=read_dropout(
            c,
            embeddings="hidden_dropout_prob",
            attention="attention_probs_dropout_prob",
            residual="hidden_dropout_prob",
            rate=0.1,
        ),
        **POST_NORM,
    )


POST_NORM: Mapping[str, Any] = {
    "causal": False,
    "norm": Norm.LAYER,
    "placement": Placement.POST,
    "final_norm": False,
    "embed_norm": True,
    "qkv_bias": True,
    "out_bias": True,
    "gated": False,
    "mlp_bias": True,
    "head_transform": True,
    "head_bias": True,
    "tied": True,
}


@family("bert", classes=("BertModel", "BertForMaskedLM"), rules=BERT_RULES, prefix="bert.", heads=BERT_HEADS)
def bert(c: Reader) -> Arch:
    pooler = "pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type"
    c.skip("directionality", *pooler.split())  # of the TensorFlow original; transformers reads none
    return encoder(c)


def _roberta(c: Reader) -> Arch:
    """Positions are counted from the row after the padding token's id."""
    arch = encoder(c, offset=c.size("pad_token_id", 1) + 1)
    if arch.activation is not Activation.GELU:
        raise c.error("hidden_act is supported at gelu only: the head uses it whatever is said", c.value("hidden_act"))
    return arch


def _like_roberta(model_type: str, classes: tuple[str, str]) -> None:
    rules: Sequence[Rule] = (*body_rules("roberta."), *LM_HEAD_RULES)
    family(model_type, classes=classes, rules=rules, prefix="roberta.", heads=ROBERTA_HEADS)(_roberta)


_like_roberta("roberta", ("RobertaModel", "RobertaForMaskedLM"))
_like_roberta("xlm-roberta", ("XLMRobertaModel", "XLMRobertaForMaskedLM"))  # other tokens and names of classes


DISTILBERT_RULES = (
    drop("embeddings.position_ids"),
    rename("^distilbert.", "^model."),
    rename("^model.embeddings.word_embeddings.", "^model.embed_tokens."),
    rename("^model.embeddings.position_embeddings.", "^model.embed_positions."),
    rename("^model.embeddings.LayerNorm.", "^model.embed_norm."),
    rename("^model.transformer.layer.", "^model.layers."),
    rename(".attention.q_lin.", ".self_attn.q_proj."),
    rename(".attention.k_lin.", ".self_attn.k_proj."),
    rename(".attention.v_lin.", ".self_attn.v_proj."),
    rename(".attention.out_lin.", ".self_attn.o_proj."),
    rename(".sa_layer_norm.", ".input_layernorm."),
    rename(".ffn.lin1.", ".mlp.up_proj."),
    rename(".ffn.lin2.", ".mlp.down_proj."),
    rename(".output_layer_norm.", ".post_attention_layernorm."),
    rename("^vocab_transform.", "^lm_transform.dense."),
    rename("^vocab_layer_norm.", "^lm_transform.norm."),
    rename("^vocab_projector.", "^lm_head."),
)
FIRST_RELU = HeadForm(
    "classifier",
    Reads.FIRST,
    dense="pre_classifier",
    activation=Activation.RELU,
    dropout=("seq_classif_dropout",),
    default_dropout=0.2,
)
DISTILBERT_HEADS = {
    Task.SEQUENCE: FIRST_RELU,
    Task.TOKEN: HeadForm("classifier", dropout=("dropout",), default_dropout=0.1),
    Task.QUESTION: HeadForm("qa_outputs", dropout=("qa_dropout",), default_dropout=0.1),
    Task.CHOICE: FIRST_RELU,
}


@family(
    "distilbert",
    classes=("DistilBertModel", "DistilBertForMaskedLM"),
    rules=DISTILBERT_RULES,
    prefix="distilbert.",
    heads=DISTILBERT_HEADS,
)
def distilbert(c: Reader) -> Arch:
    """BERT without segments and pooler. Sinusoidal positions are stored like learned ones."""
    c.skip("sinusoidal_pos_embds", "tie_weights_")
    c.neutral("tie_word_embeddings", True)
    heads, positions = c.size("n_heads"), c.size("max_position_embeddings", 512)
    return Arch(
        vocab_size=c.size("vocab_size"),
        hidden_size=c.size("dim"),
        intermediate_size=c.size("hidden_dim"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=read_head_dim(c, hidden="dim", heads="n_heads"),
        layers=(Layer(rope=None),) * c.num_layers("n_layers"),
        max_position_embeddings=positions,
        norm_eps=1e-12,
        position_table=positions,
        activation=read_activation(c, "activation", "gelu"),
        dropout=read_dropout(c, embeddings="dropout", attention="attention_dropout", residual="dropout", rate=0.1),
        **POST_NORM,
    )
