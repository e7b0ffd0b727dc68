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


BERT = Anatomy("encoder.layer", "attention.self.query", "attention.self.key", "attention.self.value")
DISTILBERT = Anatomy("transformer.layer", "attention.q_lin", "attention.k_lin", "attention.v_lin")
MPNET = Anatomy("encoder.layer", "attention.attn.q", "attention.attn.k", "attention.attn.v")

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
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise ValueError(f"the encoder must be one of {', '.join(FAMILIES)}, got {kind!r}")
    return FAMILIES[kind]


def encoder_path(model: nn.Module) -> str:
    """Dotted name of the list of blocks, seen from the whole model."""
    return f"{model.base_model_prefix}.{anatomy(model).blocks}"


def blocks(model: nn.Module) -> nn.ModuleList:
    """The encoder's blocks, first to last."""
    return model.get_submodule(encoder_path(model))


def part(model: nn.Module, block: int, name: str) -> str:
    """Dotted name of the query, key or value projection of a block (counted from 0)."""
    return f"{encoder_path(model)}.{block}.{getattr(anatomy(model), name)}"
