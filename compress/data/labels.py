"""What a label column means: names of classes, or a score.

With `task.kind: auto` the training split's column decides:

    ClassLabel                 classes, names and order as the dataset declares them
    strings                    classes, sorted
    booleans                   classes "false", "true"
    integers                   classes named by their numbers ("0", "1", ...), in numeric order
    floats                     a score, if any value is no whole number or more than 20 values differ;
                               otherwise classes, named as integers are

`kind: regression` makes integers a score; `kind: classification` makes any number of whole floats classes. Other
splits are matched by name, so that a column of 0 and 1 in one file and of 0.0 and 1.0 in another agree.
"""

import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

FEW = 20  # whole floats with at most this many distinct values are classes


@dataclass(frozen=True)
class Labels:
    """How one dataset's label column becomes numbers."""

    kind: str
    names: tuple[str, ...]  # by index; empty for regression
    column: str
    where: str  # the dataset, for messages
    declared: bool = False  # a ClassLabel: integers elsewhere are indices, not names

    @classmethod
    def of(cls, train: "Dataset", column: str, kind: str, *, where: str) -> "Labels":
        """What the training split's label column means."""
        feature = train.features[column]
        names = getattr(feature, "names", None)
        if not len(train):
            raise ValueError(f"every split needs rows; the train split of {where} is empty: fill it or remove it")
        values = _values(train, column, "train", where)
        distinct = set(values)
        if names is not None:
            found = cls(_decided("classification", kind, column, "class names"), tuple(names), column, where, True)
        elif isinstance(values[0], str):
            decided = _decided("classification", kind, column, "strings")
            found = cls(decided, tuple(sorted(distinct)), column, where)
        elif _is_score(distinct, kind, column):
            found = cls("regression", (), column, where)
        else:
            found = cls("classification", tuple(_name(value) for value in sorted(distinct)), column, where)
        if len(distinct) < 2:
            raise ValueError(
                f"training needs at least two different labels; column {column!r} in the train split of {where} "
                f"holds only {_shown(values[0], names)!r}: check task.label and the data"
            )
        return found

    def missing(self, dataset: "Dataset") -> bool:
        """Whether a split carries no labels: no such column, nothing in it, or -1 throughout."""
        if self.column not in dataset.column_names:
            return True
        values = dataset[self.column][:]
        return bool(values) and (all(v is None for v in values) or all(v == -1 for v in values))

    def numbers(self, dataset: "Dataset", split: str) -> np.ndarray:
        """[N] class indices (int64) or scores (float32) of a split. Raises ValueError for labels unseen in training."""
        values = _values(dataset, self.column, split, self.where)
        if self.kind == "regression":
            if isinstance(values[0], str):
                raise ValueError(
                    f"scores must be numbers; column {self.column!r} in the {split} split of {self.where} holds "
                    f"{values[0]!r}: make every split's labels numbers"
                )
            return np.asarray(values, dtype=np.float32)
        own = getattr(dataset.features[self.column], "names", None)
        index = {name: i for i, name in enumerate(self.names)}
        names = [self._named(value, own) for value in values]
        unseen = sorted(set(names) - set(index))
        if unseen:
            shown = ", ".join(repr(name) for name in unseen[:5]) + (", ..." if len(unseen) > 5 else "")
            raise ValueError(
                f"every label must stand in the train split; the {split} split of {self.where} also has {shown} "
                f"in column {self.column!r} (trained: {', '.join(self.names[:10])}): add training rows or remove these"
            )
        return np.asarray([index[name] for name in names], dtype=np.int64)

    def check_seen(self, numbers: np.ndarray, seen: np.ndarray, split: str) -> None:
        """Raise ValueError where a declared class is evaluated that no training row has."""
        unseen = np.setdiff1d(numbers, seen)
        if self.kind == "classification" and len(unseen):
            raise ValueError(
                f"every label must stand in the train split; the {split} split of {self.where} also has "
                f"{', '.join(repr(self.names[i]) for i in unseen[:5])}: add training rows or remove these"
            )

    def _named(self, value: Any, own: list[str] | None) -> str:
        names = own if own is not None else self.names if self.declared and not isinstance(value, str) else None
        if names is None:
            return _name(value)
        return names[int(value)] if 0 <= value < len(names) else str(value)


def nearest(column: str, columns: list[str]) -> str:
    """ "; did you mean ...?" for a missing column, or nothing."""
    close = difflib.get_close_matches(column, columns, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _values(dataset: "Dataset", column: str, split: str, where: str) -> list[Any]:
    values: list[Any] = dataset[column][:]
    empty = [i for i, v in enumerate(values) if v is None or (isinstance(v, float) and not math.isfinite(v))]
    if empty:
        raise ValueError(
            f"every row needs a label; {len(empty):,} of {len(values):,} rows in the {split} split of {where} have none"
            f" in column {column!r}, the first is row {empty[0]} (counted from 0): fill these rows or remove them"
        )
    if values and not isinstance(values[0], (str, bool, int, float)):
        raise ValueError(
            f"a label must be a class name or a number; column {column!r} in the {split} split of {where} holds "
            f"{type(values[0]).__name__} values: name another column in task.label"
        )
    return values


def _is_score(distinct: set[Any], kind: str, column: str) -> bool:
    fractions = [v for v in distinct if isinstance(v, float) and not v.is_integer()]
    if kind == "classification":
        if fractions:
            raise ValueError(
                f"classes must be names or whole numbers; label column {column!r} holds {fractions[0]}: "
                "set task.kind to regression, or name another column in task.label"
            )
        return False
    floats = any(isinstance(v, float) for v in distinct)
    return kind == "regression" or bool(fractions) or (floats and len(distinct) > FEW)


def _decided(holds: str, kind: str, column: str, what: str) -> str:
    if kind not in ("auto", holds):
        raise ValueError(
            f"task.kind {kind} needs a column of numbers; label column {column!r} holds {what}: "
            "set task.kind to auto, or name another column in task.label"
        )
    return holds


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _shown(value: Any, names: list[str] | None) -> str:
    return names[value] if names is not None and 0 <= value < len(names) else _name(value)
