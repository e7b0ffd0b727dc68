"""A masked language model over any encoder of the anatomy table: the model that pre-training stages train.

Its logits are those of the asked positions alone, [M, V] for M positions and V word pieces. So predicting a masked
word piece is classification into V classes, and the ordinary techniques train it: `supervised` is the masked
language model's loss, `distil/logits` the distillation of Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754).
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from compress.anatomy import FAMILIES
from compress.models import architecture, attention, first_line, locate, quiet

HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": lambda m, h: m.cls(h),
    "camembert": lambda m, h: m.lm_head(h),
    "distilbert": lambda m, h: m.vocab_projector(m.vocab_layer_norm(m.activation(m.vocab_transform(h)))),
    "electra": lambda m, h: m.generator_lm_head(m.generator_predictions(h)),
    "mpnet": lambda m, h: m.lm_head(h),
    "roberta": lambda m, h: m.lm_head(h),
    "xlm-roberta": lambda m, h: m.lm_head(h),
}


class MaskedLM(nn.Module):
    """`language_model` of transformers with its head applied to chosen positions only."""

    def __init__(self, language_model: Any) -> None:
        super().__init__()
        self.lm = language_model
        self.config = language_model.config
        self.num_labels = language_model.config.vocab_size
        self.base_model_prefix = f"lm.{language_model.base_model_prefix}"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        positions: Tensor,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> SimpleNamespace:
        """Logits [M, V] at `positions` [M], which count along the flattened input [B L]; hidden states [B, L, D]."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        encoded = self.lm.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            **types,
        )
        hidden_MD = encoded.last_hidden_state.flatten(0, 1)[positions]
        logits = HEADS[self.config.model_type](self.lm, hidden_MD)
        return SimpleNamespace(logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions)


def load(name: str) -> tuple[MaskedLM, Any, bool]:
    """The masked language model of a checkpoint, its tokenizer, and whether the checkpoint brought the head.

    Where it brought none, the head is fresh and its output matrix is the word embeddings themselves. A pooler that the
    checkpoint brought stays with the encoder, though nothing here uses it. Raises ValueError for what cannot be loaded.
    """
    quiet()
    source = locate(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
        config = AutoConfig.from_pretrained(source)
        options = {"dtype": torch.float32, "output_loading_info": True}
        model, found = architecture(config, AutoModelForMaskedLM).from_pretrained(source, **options, **attention())
        plain, missing = architecture(config).from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} does not load as a masked language model: {first_line(error)}") from None
    if model.config.model_type not in FAMILIES:
        raise ValueError(f"the encoder must be one of {', '.join(FAMILIES)}, got {model.config.model_type!r}")
    if tokenizer.mask_token_id is None or not tokenizer.is_fast:
        raise ValueError(f"pre-training masks word pieces: the tokenizer of {name} must be fast and have a mask token")
    pooler = getattr(plain.base_model, "pooler", None)
    if pooler is not None and not any("pooler" in key for key in missing["missing_keys"]):
        model.base_model.pooler = pooler
    own_head = not [key for key in found["missing_keys"] if not key.startswith(model.base_model_prefix)]
    return MaskedLM(model.eval()), tokenizer, own_head


def save(model: MaskedLM, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint that transformers loads as a masked language model or as the encoder of any head."""
    model.lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
