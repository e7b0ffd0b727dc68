"""Where the parts of an encoder lie: one row of the table for each family of architectures.

A family whose module names differ needs a row here and nothing else.
"""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Anatomy:
    blocks: str  # dotted name of the list of blocks, below the encoder
    query: str  # below a block
    key: str
    value: str
    attention: str  # the module that counts its heads
    attention_out: str  # the projection of all heads' context vectors
    ffn_in: str
    ffn_out: str
    heads: str = "num_attention_heads"  # attribute of `attention`: its number of heads
    size: str = "all_head_size"  # attribute of `attention`: heads times width of a head
    depth: str = "num_hidden_layers"  # of the configuration
    shared_bias: bool = False  # one bias of the scores [1, H, L, L] serves the attentions of all blocks


BERT = Anatomy(
    blocks="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention="attention.self",
    attention_out="attention.output.dense",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
)
DISTILBERT = Anatomy(
    blocks="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention="attention",
    attention_out="attention.out_lin",
    ffn_in="ffn.lin1",
    ffn_out="ffn.lin2",
    heads="n_heads",
    size="dim",
    depth="n_layers",
)
MPNET = Anatomy(
    blocks="encoder.layer",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention="attention.attn",
    attention_out="attention.attn.o",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
    shared_bias=True,
)

FAMILIES = {
    "bert": BERT,
    "camembert": BERT,
    "distilbert": DISTILBERT,
    "electra": BERT,
    "mpnet": MPNET,
    "roberta": BERT,
    "xlm-roberta": BERT,
}


def anatomy(model: nn.Module) -> Anatomy:
    """The row for `model`. Raises ValueError for a family that is not in the table."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in FAMILIES:
        raise ValueError(f"the encoder must be one of {', '.join(FAMILIES)}, got {kind!r}")
    return FAMILIES[kind]


def has_blocks(model: nn.Module) -> bool:
    """Whether it is an encoder made of blocks, and no other kind of student."""
    return hasattr(model, "base_model_prefix")


def encoder_path(model: nn.Module) -> str:
    """Dotted name of the list of blocks, seen from the whole model, which may be the bare encoder."""
    below = anatomy(model).blocks
    if getattr(model, "base_model", None) is model:
        return below
    return f"{model.base_model_prefix}.{below}"


def blocks(model: nn.Module) -> nn.ModuleList:
    """The encoder's blocks, first to last."""
    return model.get_submodule(encoder_path(model))


def embeddings(model: nn.Module) -> nn.Module:
    """The module that makes vectors [B, L, D] of ids: words, positions, types, normalisation and dropout."""
    bare = getattr(model, "base_model", None) is model
    return (model if bare else model.get_submodule(model.base_model_prefix)).embeddings


def part(model: nn.Module, block: int, name: str) -> str:
    """Dotted name of a part of a block (counted from 0): a field of Anatomy that names a module."""
    return f"{encoder_path(model)}.{block}.{getattr(anatomy(model), name)}"
