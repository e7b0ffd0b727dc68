"""The gates between a file and its being served, and the evidence they use.

On the file as it is served: no product with constant weights in float; answers close to the trained model's; the
selection metric at most `max_drop` worse than fp32's; the same answers in any company.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compress.export import parity
from compress.export.kernels import Kernels, kernels
from serve import trial
from serve.artefact import Artefact, Encoder, Manifest, Model, Task
from serve.encode import Text
from serve.manifest import Embedding
from serve.measures import higher_is_better, measure
from serve.runtime import Session

COMPANIONS = 128  # texts of the batch-invariance check
FIRST_GROUP = 8  # texts a run, until the trial


@dataclass
class Candidate:
    """One file on trial. `refused` says why it may not be served."""

    name: str
    model: Model
    size: int  # bytes
    facts: dict[str, Any] = field(default_factory=dict)
    metric: float = float("nan")
    speed: dict[str, float] = field(default_factory=dict)  # texts a second by texts a call
    refused: str | None = None

    def plain(self, *, chosen: bool) -> dict[str, Any]:
        """For the manifest."""
        metric = None if np.isnan(self.metric) else round(self.metric, 6)
        return {
            "name": self.name,
            **self.model.model_dump(exclude={"path"}),
            "size_bytes": self.size,
            "metric": metric,
            "texts_per_second": self.speed,
            **self.facts,
            "refused": self.refused,
            "chosen": chosen,
        }


def candidate(
    name: str, staging: Path, path: Path, *, precision: Literal["fp32", "int8"], method: str, batch: int | None = None
) -> Candidate:
    """The file at `path`, with its kernels counted. `batch`: texts a run, where that is not a matter of speed."""
    found = kernels(path)
    model = Model(
        path=path.relative_to(staging).as_posix(),
        precision=precision,
        method=method,
        batch=batch or FIRST_GROUP,
        integer_kernels=found.integer,
        float_kernels=found.float,
    )
    refused = fallen_back(found) if precision == "int8" else None
    return Candidate(name, model, path.stat().st_size, refused=refused)


def fallen_back(found: Kernels) -> str | None:
    """Why a file with these kernels is not INT8, or None."""
    if found.float or not found.integer:
        return f"kernels: {found.float} of {found.float + found.integer} products with constant weights run in float"
    return None


@dataclass(frozen=True)
class Judge:
    """The evidence that every file is held against."""

    staging: Path
    encoder: Encoder
    kind: Literal["classification", "regression", "embedding"]
    metric: str
    texts: Sequence[Text]
    labels: np.ndarray  # [N]
    reference: np.ndarray  # the trained model's logits [N, C]
    max_drop: float
    embedding: Embedding | None = None

    def session(self, model: Model) -> Session:
        """The file as the artefact will serve it."""
        classes = tuple(f"class {at}" for at in range(self.reference.shape[1]))
        task = Task(
            kind=self.kind,
            inputs=2 if isinstance(self.texts[0], tuple) else 1,
            labels={"classification": classes, "regression": ("score",), "embedding": ()}[self.kind],
            metric=self.metric,
            embedding=self.embedding,
        )
        manifest = Manifest(
            name="trial", created="", task=task, encoder=self.encoder, models={"trial": model}, served="trial"
        )
        return Session(Artefact(self.staging, manifest))

    def weigh(self, candidate: Candidate, limits: parity.Limits, fp32: float | None = None) -> Session | None:
        """Fill in parity, metric and group size; the session if the file passes. `fp32`: that file's metric."""
        session = self.session(candidate.model)
        logits = session.logits(self.texts)
        found = parity.compare(self.reference, logits, self.kind)
        candidate.facts["parity"] = found.plain()
        candidate.metric = float(measure(self.metric, logits, self.labels, texts=self.texts))
        candidate.refused = limits.refusal(found) or self._dropped(candidate.metric, fp32)
        if candidate.refused:
            return None
        if candidate.model.batch != 1:
            session.batch = trial.best_group(session, self.texts)
        why = self._moves(session)
        if why and session.batch != 1:
            candidate.facts["one_by_one"] = why  # alone in its run, a text has no company to depend on
            session.batch = 1
            why = self._moves(session)
        candidate.model = candidate.model.model_copy(update={"batch": session.batch})
        candidate.refused = why
        return None if why else session

    def _dropped(self, metric: float, fp32: float | None) -> str | None:
        if fp32 is None or np.isnan(fp32):
            return None
        drop = worth(self.metric, fp32) - worth(self.metric, metric)
        if not drop <= self.max_drop + 1e-9:  # 0.842 - 0.852 is more than 0.01 in floating point
            return f"{self.metric} {metric:.4f} is {drop:.4f} worse than fp32's, limit {self.max_drop}"
        return None

    def _moves(self, session: Session) -> str | None:
        return parity.batch_invariance(session.logits, self.texts[:COMPANIONS], self.kind)


def worth(metric: str, value: float) -> float:
    """`value` so that more is better; undefined is worst."""
    if np.isnan(value):
        return float("-inf")
    return value if higher_is_better(metric) else -value
