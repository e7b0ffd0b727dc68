"""From a recipe's task to the texts and labels that train, select and report."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from compress.data import splits
from compress.data.labels import Labels
from compress.data.read import Found, read, read_unseen
from compress.data.splits import Parts
from serve.measures import DEFAULT_METRIC, RANKED, higher_is_better

if TYPE_CHECKING:
    from datasets import Dataset

    from compress.recipe import TaskRecipe

Text = str | tuple[str, str]

NO_LABEL = -100  # of a class, as torch has it
REGRESSION_METRICS = frozenset({"pearson", "spearman", "mse"})
EMBEDDING_METRICS = {"spearman": "cosine_spearman", "pearson": "cosine_pearson"}


@dataclass(frozen=True)
class Examples:
    texts: list[Text]
    labels: np.ndarray  # [N] int64 (classification) or float32 (regression, embedding)
    together: int = 1  # texts that make an example: 2 for pairs to be compared, side by side and with one score

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> "Examples":
        """The examples of these row numbers, in their order."""
        assert self.together == 1, "rows of pairs could tear them apart"
        return Examples([self.texts[row] for row in rows], self.labels[rows])

    def drawn(self, most: int, *, seed: int, ranked: bool = False) -> "Examples":
        """At most so many texts, drawn without replacement: files are often sorted by label or length.

        `ranked`: of whole questions, pairs of one first text, at least of one.
        """
        generator = np.random.default_rng(seed)
        if ranked:
            _, of, counts = np.unique([text[0] for text in self.texts], return_inverse=True, return_counts=True)
            order = generator.permutation(len(counts))
            chosen = order[: max(1, np.count_nonzero(counts[order].cumsum() <= most))]
            return self.take(np.flatnonzero(np.isin(of, chosen)))
        whole = np.arange(len(self)).reshape(-1, self.together)
        rows = whole[generator.permutation(len(whole))[: most // self.together]].ravel()
        return Examples([self.texts[row] for row in rows], self.labels[rows], self.together)

    def apart(self) -> "Examples":
        """Pairs as texts of their own, each with its pair's score."""
        return Examples([text for pair in self.texts for text in pair], self.labels.repeat(2), 2)

    def joined(self) -> "Examples":
        """What `apart` took apart; anything else as it is."""
        if self.together == 1:
            return self
        return Examples(list(zip(self.texts[::2], self.texts[1::2], strict=True)), self.labels[::2])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Data:
    kind: str  # "classification", "regression" or "embedding"
    labels: tuple[str, ...]  # class names by index; ("score",) for regression, none for an embedding
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
    Several domains are each split by themselves and then put together. Of an embedding the texts of a pair come apart,
    and scores lie from 0 to 1, as cosines shall.
    Raises ValueError for what a user can mend: columns, labels, empty splits, unreadable files.
    """
    found = read(task)
    embeds = task.kind == "embedding"
    labels = Labels.of(_together(found), task.label, "regression" if embeds else task.kind, where=found[0].where)
    kind = "embedding" if embeds else labels.kind
    metric = _metric(task.metric, kind)
    ranked = metric in RANKED
    if ranked:
        _check_ranked(metric, labels, task)
    domains = [_domain(domain, task, labels, len(found), seed=seed, ranked=ranked) for domain in found]
    parts, notes = _joined(domains, ranked=ranked)
    if task.unseen is not None:
        parts, more = _with_unseen(parts, task, labels, ranked=ranked)
        notes += more
    if embeds:
        parts, more = _apart(parts)
        notes += more
    assert parts.selection is not None
    for name, part in {"selection": parts.selection, **parts.reports}.items():
        labels.check_seen(part.labels, np.unique(parts.train.labels), name)
    names = {"classification": labels.names, "regression": ("score",), "embedding": ()}[kind]
    return Data(
        kind=kind,
        labels=names,
        columns=tuple(task.text),
        metric=metric,
        train=parts.train,
        selection=parts.selection,
        reports=parts.reports,
        notes=tuple(notes),
        fingerprint=_fingerprint(names, {"train": parts.train, "selection": parts.selection} | parts.reports),
    )


def _together(found: list[Found]) -> "Dataset":
    """The training rows of all domains, whose columns must be of the same types."""
    import datasets

    first = found[0]
    for other in found[1:]:
        if other.train.features != first.train.features:
            raise ValueError(
                f"the datasets of one task must have columns of the same types; {first.where} has "
                f"{first.train.features}, {other.where} has {other.train.features}: convert one of them"
            )
    return datasets.concatenate_datasets([one.train for one in found]) if len(found) > 1 else first.train


def _domain(
    found: Found, task: "TaskRecipe", labels: Labels, domains: int, *, seed: int, ranked: bool
) -> tuple[Parts, list[str]]:
    """One domain's splits with its share of `task.limit`; notes begin with its name where there are several."""
    labels = dataclasses.replace(labels, where=found.where)
    parts, notes = _parts(found, task, labels)
    parts, more = splits.arrange(parts, labels.kind, selection=task.selection, seed=seed, ranked=ranked)
    notes += more
    limit = None if task.limit is None else task.limit // domains
    if limit is not None and limit < len(parts.train):
        notes.append(f"training rows limited to {limit:,} of {len(parts.train):,}, stratified by label")
        parts = splits.limited(parts, labels, limit, seed=seed)
    return parts, notes if domains == 1 else [f"{found.where}: {note}" for note in notes]


def _joined(domains: list[tuple[Parts, list[str]]], *, ranked: bool) -> tuple[Parts, list[str]]:
    """All domains' splits, without leaks from one domain to another."""
    parts, notes = [parts for parts, _ in domains], [note for _, notes in domains for note in notes]
    if len(parts) == 1:
        return parts[0], notes
    names = dict.fromkeys(name for one in parts for name in one.reports)
    reports = {name: _appended([one.reports[name] for one in parts if name in one.reports]) for name in names}
    selections = [one.selection for one in parts if one.selection is not None]
    joined = Parts(_appended([one.train for one in parts]), _appended(selections), reports)
    return splits.apart(joined, notes, ranked=ranked), notes


def _appended(parts: list[Examples]) -> Examples:
    return Examples([text for part in parts for text in part.texts], np.concatenate([part.labels for part in parts]))


def _with_unseen(parts: Parts, task: "TaskRecipe", labels: Labels, *, ranked: bool) -> tuple[Parts, list[str]]:
    """The same, reported on a domain of its own as `test`, and as `known` on what was the report."""
    assert task.unseen is not None
    split, dataset = read_unseen(task, task.unseen)
    known = parts.reports.get("test") or next(iter(parts.reports.values()))
    unseen = _examples(dataset, split, task, dataclasses.replace(labels, where=task.unseen), task.unseen)
    notes = [f"test is the {split} split of {task.unseen}, known that of what is trained on"]
    reported = Parts(parts.train, parts.selection, {"test": unseen, "known": known})
    return splits.apart(reported, notes, ranked=ranked), notes


def unlabelled(texts: list[str], data: Data) -> Examples:
    """`texts` as examples without labels, without those that stand in a split that selects or is reported.

    In place of a label stands -100, or NaN for regression and embeddings.
    """
    looked_at = {splits.key(text) for part in (data.selection, *data.reports.values()) for text in part.texts}
    kept: list[Text] = [text for text in texts if splits.key(text) not in looked_at]
    if data.kind != "classification":
        return Examples(kept, np.full(len(kept), np.nan, dtype=np.float32))
    return Examples(kept, np.full(len(kept), NO_LABEL, dtype=np.int64))


def _apart(parts: Parts) -> tuple[Parts, list[str]]:
    """Single texts, and scores from 0 to 1: the lowest and the highest of the training split."""
    low, high = float(parts.train.labels.min()), float(parts.train.labels.max())
    if high == low:
        raise ValueError(f"all training pairs have the score {low:g}, which teaches nothing: raise task.limit")
    note = f"scores from {low:g} to {high:g} are cosines from 0 to 1; the texts of a pair are read one by one"

    def apart(part: Examples) -> Examples:
        return Examples(part.texts, (part.labels - low) / (high - low)).apart()

    assert parts.selection is not None
    reports = {name: apart(part) for name, part in parts.reports.items()}
    return Parts(apart(parts.train), apart(parts.selection), reports), [note]


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
    if kind == "embedding":
        if metric not in (*EMBEDDING_METRICS, *EMBEDDING_METRICS.values()):
            raise ValueError(f"task.metric of an embedding must be {' or '.join(EMBEDDING_METRICS)}, got {metric!r}")
        return EMBEDDING_METRICS.get(metric, metric)
    higher_is_better(metric)  # says which metrics there are
    if (metric in REGRESSION_METRICS) != (kind == "regression"):
        fitting = "one of " + ", ".join(sorted(REGRESSION_METRICS)) if kind == "regression" else "one for classes"
        raise ValueError(
            f"task.metric must be {fitting}, because the label column makes this a {kind}; got {metric!r}: "
            "change task.metric, or set task.kind"
        )
    return metric


def _check_ranked(metric: str, labels: Labels, task: "TaskRecipe") -> None:
    if len(task.text) != 2 or len(labels.names) != 2:
        raise ValueError(
            f"task.metric {metric} ranks candidates for a question, so task.text must name two columns and labels must "
            f"be two classes, wrong and right; got {list(task.text)} and {list(labels.names[:10])}: choose another one"
        )


def _fingerprint(names: tuple[str, ...], parts: dict[str, Examples]) -> str:
    digest = hashlib.sha256(json.dumps(names).encode())
    for name, examples in sorted(parts.items()):
        digest.update(json.dumps([name, examples.texts]).encode())
        digest.update(np.ascontiguousarray(examples.labels).astype(examples.labels.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
