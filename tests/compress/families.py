"""A tiny model of every family in the table, from nothing."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

LENGTH, VOCABULARY = 24, 64
DISTILBERT = {"dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 24}
OTHERS = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24}
FAMILIES = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")


def tiny(family: str, *, seed: int = 0, **options: Any) -> Any:
    """Three blocks of four heads and 24 neurons, with biases and normalisations that are not those of a fresh model."""
    torch.manual_seed(seed)
    shape = DISTILBERT if family == "distilbert" else OTHERS
    config = AutoConfig.for_model(
        family, vocab_size=VOCABULARY, max_position_embeddings=LENGTH, initializer_range=0.2, **shape | options
    )
    if family == "electra":
        config.embedding_size = 8
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(0, 0.2)
    return model.eval()


def texts() -> dict[str, torch.Tensor]:
    """Four texts of 12 word pieces, every second one padded from the tenth on."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, VOCABULARY, (4, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[::2, 9:] = 0
    return {"input_ids": ids, "attention_mask": mask}
