"""An encoder that makes one vector of a text: the model of an embedding task, teacher and student alike.

Its `logits` are the finished vectors [B, D], so that whatever handles logits handles vectors. On disk it is the encoder
alone, with the few files by which sentence-transformers knows how to pool.

Shapes: B texts, L tokens, D numbers of a vector.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel
from transformers.utils import cached_file

from compress import models
from compress.data.load import Data
from compress.recipe import Recipe
from serve.manifest import Embedding

Pooling = Literal["mean", "first"]
MODULES, POOLING = "modules.json", "1_Pooling/config.json"
KNOWN = ("Transformer", "Pooling", "Normalize")  # modules of sentence-transformers
MODES: dict[str, Pooling] = {"mean": "mean", "cls": "first"}
FLAGS = {  # of a 1_Pooling/config.json until sentence-transformers 5; the first two are written
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def pooled(hidden_BLD: Tensor, mask_BL: Tensor, pooling: Pooling) -> Tensor:
    """The mean over real tokens, or the first token's; [B, D] in float32."""
    if hidden_BLD.dtype != torch.float32:  # asked, so that an exported graph has no cast that does nothing
        hidden_BLD = hidden_BLD.float()
    if pooling == "first":
        return hidden_BLD[:, 0]
    mask_BLD = mask_BL.unsqueeze(-1).expand(hidden_BLD.size()).float()
    return (hidden_BLD * mask_BLD).sum(1) / mask_BLD.sum(1).clamp(min=1e-9)


class Embedder(nn.Module):
    """`encoder` of transformers, without a pooler, and what is read of its last layer."""

    base_model_prefix = "encoder"

    def __init__(self, encoder: Any, *, pooling: Pooling, normalised: bool) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # nothing here reads it
        self.encoder, self.pooling, self.normalised = encoder, pooling, normalised

    @property
    def config(self) -> Any:
        return self.encoder.config

    @property
    def base_model(self) -> Any:
        return self.encoder

    @property
    def embedding(self) -> Embedding:
        """As the manifest tells it."""
        return Embedding(size=self.config.hidden_size, pooling=self.pooling, normalised=self.normalised)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> SimpleNamespace:
        """Vectors [B, D] as `logits`; hidden states [B, L, D]."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        encoded = self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            **types,
        )
        vectors_BD = pooled(encoded.last_hidden_state, attention_mask, self.pooling)
        if self.normalised:
            vectors_BD = F.normalize(vectors_BD, p=2, dim=-1)
        return SimpleNamespace(logits=vectors_BD, hidden_states=encoded.hidden_states, attentions=encoded.attentions)

    def save_pretrained(self, folder: Path) -> None:
        """A checkpoint that transformers loads as the encoder, and sentence-transformers as the whole."""
        self.encoder.save_pretrained(folder)
        modules = ["", "1_Pooling", "2_Normalize"][: 3 if self.normalised else 2]
        listed = [
            {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{KNOWN[at]}"}
            for at, path in enumerate(modules)
        ]
        write(folder / MODULES, listed)
        chosen = {flag: MODES[FLAGS[flag]] == self.pooling for flag in list(FLAGS)[:2]}
        write(folder / POOLING, {"word_embedding_dimension": self.config.hidden_size, **chosen})


def write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load(name: str, pooling: Pooling, max_length: int, *, normalised: bool = True) -> tuple[Embedder, Any]:
    """A checkpoint's encoder in fp32 as an embedder, and its fast tokenizer; see `models.load` for what is refused."""
    encoder, tokenizer = models.read(name, AutoModel, {}, max_length)
    return Embedder(encoder, pooling=pooling, normalised=normalised).eval(), tokenizer


def load_for(recipe: Recipe, data: Data, name: str) -> tuple[Any, Any]:
    """The checkpoint `name` as the model of the recipe's task, and its tokenizer: a classifier, or an embedder."""
    task = recipe.task
    if data.kind != "embedding":
        return models.load(name, data.labels, task.max_length)
    return load(name, pooling_of(recipe), task.max_length, normalised=task.normalised)


def pooling_of(recipe: Recipe) -> Pooling:
    """What the recipe says, else what the teacher's own files say, else the mean. ValueError where they differ."""
    asked, told = recipe.task.pooling, told_by(models.locate(recipe.teacher.model))
    if asked and told and asked != told:
        raise ValueError(
            f"task.pooling is {asked!r}, but {recipe.teacher.model} was made with {told!r} ({POOLING}): "
            "leave task.pooling out, or choose another teacher"
        )
    return asked or told or "mean"


def told_by(source: str) -> Pooling | None:
    """How sentence-transformers pools this checkpoint; None where it says nothing. ValueError for what we lack."""
    modules = read(source, MODULES) or []
    for module in modules:
        if (kind := module["type"].rpartition(".")[-1]) not in KNOWN:
            raise ValueError(f"an embedding is pooled and normalised, no more; {source} has a module {kind} as well")
    told = read(source, POOLING)
    if told is None:
        return None
    given = told.get("pooling_mode") or [mode for flag, mode in FLAGS.items() if told.get(flag)]
    modes = [given] if isinstance(given, str) else list(given)
    if len(modes) != 1 or modes[0] not in MODES:
        raise ValueError(
            f"an embedding is the mean over tokens or the first token's (cls); {source}/{POOLING} asks for "
            f"{' and '.join(modes) or 'nothing'}: choose another teacher"
        )
    return MODES[modes[0]]


def read(source: str, name: str) -> Any:
    """The JSON file of that name in a checkpoint's folder or on the hub; None where there is none."""
    quiet = {"gated_repo": False, "missing_entries": False, "connection_errors": False}  # loading it will say more
    path = cached_file(source, name, **{f"_raise_exceptions_for_{what}": no for what, no in quiet.items()})
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{source}/{name} is no JSON ({error}); mend it or choose another teacher") from None
