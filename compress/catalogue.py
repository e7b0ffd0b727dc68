"""The one table: name in a recipe -> what it names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from compress.distil.cerberus import CerberusDistillation
from compress.distil.continuation import Continuation
from compress.distil.cr_ild import CRILD
from compress.distil.disco import DisCo
from compress.distil.distilbert import DistilBERT
from compress.distil.embeddings import EmbeddingDistillation
from compress.distil.ensemble import EnsembleDistillation
from compress.distil.iit import InterchangeIntervention
from compress.distil.logits import LogitDistillation
from compress.distil.minidisc import MiniDisc
from compress.distil.minilm import MiniLM
from compress.distil.tinybert import TinyBERT
from compress.faults import explain, nearest
from compress.prune.layers import LayerDrop
from compress.prune.lock import PatternLock
from compress.prune.magnitude import MagnitudePruning
from compress.prune.obs import OptimalBrainSurgeon
from compress.prune.rewind import Rewind
from compress.prune.structured import StructuredPruning
from compress.quantise.qat import QAT
from compress.recipe import Choice
from compress.regularise.alrs import ALRS
from compress.regularise.delta_sam import DeltaSAM
from compress.regularise.hype import HyPe
from compress.regularise.sam import SAM
from compress.regularise.slow_teacher import SlowTeacher
from compress.regularise.swa import SWA
from compress.students.cerberus import Cerberus
from compress.students.ngram import NGram
from compress.students.truncated import Truncated
from compress.supervised import Supervised
from compress.technique import Technique

TECHNIQUES: dict[str, type[Technique]] = {
    "distil/cerberus": CerberusDistillation,
    "distil/continuation": Continuation,
    "distil/cr-ild": CRILD,
    "distil/disco": DisCo,
    "distil/distilbert": DistilBERT,
    "distil/embeddings": EmbeddingDistillation,
    "distil/ensemble": EnsembleDistillation,
    "distil/iit": InterchangeIntervention,
    "distil/logits": LogitDistillation,
    "distil/minidisc": MiniDisc,
    "distil/minilm-v2": MiniLM,
    "distil/tinybert": TinyBERT,
    "prune/layers": LayerDrop,
    "prune/lock": PatternLock,
    "prune/magnitude": MagnitudePruning,
    "prune/obs": OptimalBrainSurgeon,
    "prune/rewind": Rewind,
    "prune/structured": StructuredPruning,
    "quantise/qat": QAT,
    "regularise/alrs": ALRS,
    "regularise/delta-sam": DeltaSAM,
    "regularise/hype": HyPe,
    "regularise/sam": SAM,
    "regularise/slow-teacher": SlowTeacher,
    "regularise/swa": SWA,
    "supervised": Supervised,
}

STUDENTS: dict[str, type[Cerberus] | type[NGram] | type[Truncated]] = {
    "cerberus": Cerberus,
    "ngram": NGram,
    "truncated": Truncated,
}


def make(choice: Choice, table: Mapping[str, type]) -> Any:
    """A fresh instance of what `choice` names, its fields checked against the dataclass.

    Raises ValueError for a name that is not in `table` or a field that the class does not have.
    """
    if choice.use not in table:
        raise ValueError(f"there is no {choice.use!r} in the catalogue; {nearest(choice.use, list(table))}")
    cls = table[choice.use]
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for key in choice.fields:
        if key not in known:
            raise ValueError(f"{choice.use} has no field {key!r}; {nearest(key, known)}")
    try:
        return TypeAdapter(cls).validate_python(choice.fields)
    except ValidationError as error:
        raise ValueError(f"{choice.use}: {explain(error, cls)}") from None


def techniques(choices: tuple[Choice, ...]) -> dict[str, Technique]:
    """Instances by the name that logs show: the catalogue's, with #2, #3 for one that is used again."""
    named: dict[str, Technique] = {}
    for choice in choices:
        times = 1 + sum(name.split("#")[0] == choice.use for name in named)
        named[choice.use if times == 1 else f"{choice.use}#{times}"] = make(choice, TECHNIQUES)
    return named
