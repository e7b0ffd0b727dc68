"""One body, several heads: the lower layers once, the upper ones and the classifier as often as there are teachers.

Matsubara, Soldaini, Lind, Moschitti 2022, "Ensemble Transformer for Efficient and Accurate Ranking Tasks: an
Application to Question Answering Systems", https://arxiv.org/abs/2201.05767. Their Bb kHh is shared=b and heads=k, of h
layers each. Answers are the mean of the heads' probabilities; we leave out other ways to combine heads (the mean of
logits, a learned one). distil/cerberus trains it.

When it helps: where several good teachers differ, and one student's latency is to be had for little more: only the
layers above the body come k times.

When it does not help: with heads of many layers it costs as much as k students; distil/ensemble has one head.

On disk it is a checkpoint of its own kind (`model_type: cerberus`), which `compress.models` loads and transformers
refuses; ONNX files of it are served as those of any other model. Heads are no blocks, so pruning and QAT refuse it.

Shapes: K heads, B texts, L tokens, D width, C classes.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from compress.anatomy import blocks
from compress.distil.ensemble import averaged
from compress.source import Source
from compress.students.truncated import cut
from compress.widths import restore

KIND = "cerberus"


class Heads(nn.Module):
    """Copies of a module for texts [K * B, ...], the i-th part of which is head i's; `first` takes [B, ...] for all."""

    def __init__(self, module: nn.Module, heads: int, *, first: bool = False) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for _ in range(heads))
        self.first = first

    def forward(self, x: Tensor, *shared: Any, **given: Any) -> Any:
        """What the copies give, one after another; `shared` (masks of B texts) goes to each."""
        parts = [x] * len(self.copies) if self.first else x.view(len(self.copies), -1, *x.shape[1:])
        found = [module(part, *shared, **given) for module, part in zip(self.copies, parts, strict=True)]
        if isinstance(found[0], tuple):  # of a layer, and beside hidden states attentions, which nobody asks for here
            return (torch.cat([values[0] for values in found]),)
        return torch.cat(found)


class CerberusNetwork(nn.Module):
    """`model` of transformers, a sequence classifier, whose layers from `shared` on are there `heads` times."""

    def __init__(self, model: nn.Module, *, shared: int, heads: int) -> None:
        super().__init__()
        self.model, self.shared, self.heads = model, shared, heads
        layers = blocks(model)
        for at in range(shared, len(layers)):
            layers[at] = Heads(layers[at], heads, first=at == shared)
        above = [(model, name) for name, module in model.named_children() if module is not model.base_model]
        above += [(model.base_model, "pooler")] if getattr(model.base_model, "pooler", None) is not None else []
        for parent, name in above:
            if any(True for _ in parent.get_submodule(name).parameters()):  # dropout stays as it is
                setattr(parent, name, Heads(parent.get_submodule(name), heads))

    @property
    def base_model(self) -> Any:
        return self.model.base_model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> SimpleNamespace:
        """`logits` [B, C], log of the mean probability, and those of all `heads` [K, B, C]."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        heads_KBC = logits.view(self.heads, -1, logits.shape[-1])
        return SimpleNamespace(logits=averaged(heads_KBC), heads=heads_KBC)

    def save_pretrained(self, folder: Path) -> None:
        """A checkpoint that `load` reads."""
        config = self.model.config
        labels = {"id2label": config.id2label, "label2id": config.label2id}
        told = {"model_type": KIND, "shared": self.shared, "heads": self.heads, **labels, "encoder": config.to_dict()}
        (folder / "config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        save_file({name: w.contiguous() for name, w in self.state_dict().items()}, folder / "model.safetensors")


def told_by(source: str) -> dict[str, Any] | None:
    """What config.json says of a checkpoint of this kind; None for any other."""
    path = Path(source, "config.json")
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return told if told.get("model_type") == KIND else None


def load(source: str, told: dict[str, Any], attention: str | None) -> CerberusNetwork:
    """The checkpoint in the folder `source`, in fp32; `told` is what `told_by` says of it."""
    config = AutoConfig.for_model(**told["encoder"])
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    restore(model)
    network = CerberusNetwork(model, shared=told["shared"], heads=told["heads"])
    network.load_state_dict(load_file(Path(source, "model.safetensors")))
    return network


def heads_of(model: nn.Module) -> int:
    """How many heads it has; any other model has one."""
    return model.heads if isinstance(model, CerberusNetwork) else 1


@dataclass
class Cerberus:
    layers: int | tuple[int, ...] | None = None  # of the teacher, as in students/truncated; None: all
    shared: int | None = None  # b, layers of the body; None: all but the last. 0 shares the embeddings alone
    heads: int = 3  # k, as many as there are teachers

    def begin(self, source: Source) -> tuple[nn.Module, Any]:
        """The student, and how it reads texts: as the model does that it is cut from."""
        if source.data.kind == "embedding":
            raise ValueError(
                "students/cerberus gives scores and no vectors: choose another student, or another task.kind"
            )
        return self.build(source.model()), source.pieces

    def build(self, teacher: nn.Module) -> CerberusNetwork:
        """A new module whose heads are equal; the teacher is left as it is. Raises ValueError for what cannot be."""
        depth = len(blocks(teacher))
        student = cut(teacher, tuple(range(depth)) if self.layers is None else self.layers, "students/cerberus")
        depth = len(blocks(student))
        shared = depth - 1 if self.shared is None else self.shared
        if not 0 <= shared < depth:
            raise ValueError(
                f"students/cerberus: shared must be 0 to {depth - 1}, so that heads have some of the {depth} layers; "
                f"got {shared}"
            )
        if self.heads < 1:
            raise ValueError(f"students/cerberus: heads must be 1 or more, got {self.heads}")
        return CerberusNetwork(student, shared=shared, heads=self.heads)
