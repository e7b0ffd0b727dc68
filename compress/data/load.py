"""From a recipe's task to the texts and labels that train, select and report."""

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from compress.data import splits
from compress.data.labels import Labels
from compress.data.read import Found, read
from compress.data.splits import Parts
from serve.measures import DEFAULT_METRIC, higher_is_better

if TYPE_CHECKING:
    from datasets import Dataset

    from compress.recipe import TaskRecipe

Text = str | tuple[str, str]

NO_LABEL = -100  # of a class, as torch has it
REGRESSION_METRICS = frozenset({"pearson", "spearman", "mse"})


@dataclass(frozen=True)
class Examples:
    texts: list[Text]
    labels: np.ndarray  # [N] int64 (classification) or float32 (regression)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> "Examples":
        """The examples of these row numbers, in their order."""
        return Examples([self.texts[row] for row in rows], self.labels[rows])


@dataclass(frozen=True)
class Data:
    kind: str  # "classification" or "regression"
    labels: tuple[str, ...]  # class names by index; ("score",) for regression
    columns: tuple[str, ...]  # the text columns, one or two
    metric: str
    train: Examples
    selection: Examples  # picks checkpoints and INT8 files; never reported
    reports: dict[str, Examples]  # what results are stated on
    notes: tuple[str, ...]  # what was carved, dropped or left out
    fingerprint: str  # sha256 of all texts and labels, whatever file they came from


def load(task: "TaskRecipe", *, seed: int) -> Data:
    """The dataset that `task` names, as train, selection and report splits.

    How labels are read is told in `compress.data.labels`, how splits are found in `compress.data.read`, and how
    missing ones are carved in `compress.data.splits`. The same task, rows and seed give the same splits.
    Raises ValueError for what a user can mend: columns, labels, empty splits, unreadable files.
    """
    found = read(task)
    labels = Labels.of(found.train, task.label, task.kind, where=found.where)
    metric = _metric(task.metric, labels.kind)
    parts, notes = _parts(found, task, labels)
    parts, more = splits.arrange(parts, labels.kind, selection=task.selection, seed=seed)
    notes += more
    if task.limit is not None and task.limit < len(parts.train):
        notes.append(f"training rows limited to {task.limit:,} of {len(parts.train):,}, stratified by label")
        parts = splits.limited(parts, labels, task.limit, seed=seed)
    assert parts.selection is not None
    for name, part in {"selection": parts.selection, **parts.reports}.items():
        labels.check_seen(part.labels, np.unique(parts.train.labels), name)
    names = labels.names if labels.kind == "classification" else ("score",)
    return Data(
        kind=labels.kind,
        labels=names,
        columns=tuple(task.text),
        metric=metric,
        train=parts.train,
        selection=parts.selection,
        reports=parts.reports,
        notes=tuple(notes),
        fingerprint=_fingerprint(names, {"train": parts.train, "selection": parts.selection} | parts.reports),
    )


def unlabelled(texts: list[str], data: Data) -> Examples:
    """`texts` as examples without labels, without those that stand in a split that selects or is reported.

    In place of a label stands -100, or NaN for regression.
    """
    looked_at = {splits.key(text) for part in (data.selection, *data.reports.values()) for text in part.texts}
    kept: list[Text] = [text for text in texts if splits.key(text) not in looked_at]
    if data.kind == "regression":
        return Examples(kept, np.full(len(kept), np.nan, dtype=np.float32))
    return Examples(kept, np.full(len(kept), NO_LABEL, dtype=np.int64))


def _parts(found: Found, task: "TaskRecipe", labels: Labels) -> tuple[Parts, list[str]]:
    """Every split that was found and is labelled, with labels as numbers."""
    notes: list[str] = []
    evaluation: dict[str, Examples] = {}
    train = _examples(found.train, "train", task, labels, found.where)
    for name, dataset in (("validation", found.validation), ("test", found.test)):
        if dataset is None:
            continue
        if labels.missing(dataset):
            if getattr(task, name) is not None:
                raise ValueError(
                    f"task.{name} must name a labelled split; {getattr(task, name)!r} of {found.where} has no labels: "
                    f"name another one, or leave task.{name} out"
                )
            notes.append(f"the {name} split has no labels and is left out")
            continue
        evaluation[name] = _examples(dataset, name, task, labels, found.where)
    return Parts(train, evaluation.get("validation"), {k: v for k, v in evaluation.items() if k == "test"}), notes


def _examples(dataset: "Dataset", split: str, task: "TaskRecipe", labels: Labels, where: str) -> Examples:
    if not len(dataset):
        raise ValueError(f"every split needs rows; the {split} split of {where} is empty: fill it or remove it")
    columns = [_texts(dataset, column, split, where) for column in task.text]
    texts: list[Text] = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))  # type: ignore[assignment]
    return Examples(texts, labels.numbers(dataset, split))


def _texts(dataset: "Dataset", column: str, split: str, where: str) -> list[str]:
    dtype = getattr(dataset.features[column], "dtype", None)
    values = dataset[column][:]
    empty = [row for row, value in enumerate(values) if value is None]
    if empty:
        raise ValueError(
            f"every row needs a text; {len(empty):,} of {len(values):,} rows in the {split} split of {where} have none "
            f"in column {column!r}, the first is row {empty[0]} (counted from 0): fill these rows or remove them"
        )
    if dtype not in ("string", "large_string", "string_view"):
        raise ValueError(
            f"a text column must hold strings; {column!r} in the {split} split of {where} holds "
            f"{dtype or 'nested values'}: name another column in task.text"
        )
    return cast(list[str], values)


def _metric(metric: str | None, kind: str) -> str:
    if metric is None:
        return DEFAULT_METRIC[kind]
    higher_is_better(metric)  # says which metrics there are
    if (metric in REGRESSION_METRICS) != (kind == "regression"):
        fitting = "one of " + ", ".join(sorted(REGRESSION_METRICS)) if kind == "regression" else "one for classes"
        raise ValueError(
            f"task.metric must be {fitting}, because the label column makes this a {kind}; got {metric!r}: "
            "change task.metric, or set task.kind"
        )
    return metric


def _fingerprint(names: tuple[str, ...], parts: dict[str, Examples]) -> str:
    digest = hashlib.sha256(json.dumps(names).encode())
    for name, examples in sorted(parts.items()):
        digest.update(json.dumps([name, examples.texts]).encode())
        digest.update(np.ascontiguousarray(examples.labels).astype(examples.labels.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
