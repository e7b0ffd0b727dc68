"""Find and read a dataset: a folder, a file, a builtin or a name on the Hugging Face hub; `datasets` does the reading.

A folder holds one file a split: train, validation (or valid, val, dev) and test, as parquet, csv, tsv, jsonl or json;
`train-00000-of-00002.parquet` counts as part of train. A folder with a single file of another name, and a single file
itself, are all training rows. Relative paths start at the current directory; `~` is the home directory.
"""

import contextlib
import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data import film_reviews
from compress.data.labels import nearest
from compress.recipe import place

if TYPE_CHECKING:
    from datasets import Dataset

    from compress.recipe import TaskRecipe, TextsRecipe

USUAL = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
BUILTIN: dict[str, Callable[[], "dict[str, Dataset]"]] = {"builtin:film-reviews": film_reviews.film_reviews}

# By extension: the builder of `datasets` and its options. Only an empty cell is missing: pandas would also take the
# words "null", "None" and "NA" for missing, which are texts and labels like any other.
CELLS = {"keep_default_na": False, "na_values": [""]}
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".parquet": ("parquet", {}),
    ".csv": ("csv", CELLS),
    ".tsv": ("csv", CELLS | {"sep": "\t"}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
}
FORMAT_NAMES = ", ".join(extension[1:] for extension in FORMATS)


@dataclass(frozen=True)
class Found:
    """A dataset's splits as they lie on disk; all rows, the columns that the task names."""

    where: str
    train: "Dataset"
    validation: "Dataset | None"
    test: "Dataset | None"


def read(task: "TaskRecipe") -> list[Found]:
    """Of each domain of `task` the splits that it names, or those with the usual names."""
    return [_domain(task, name) for name in task.domains]


def _domain(task: "TaskRecipe", name: str) -> Found:
    found = _splits(task, name, {split: getattr(task, split) for split in USUAL})
    train = found["train"]
    assert train is not None
    return Found(name, train, found["validation"], found["test"])


def read_unseen(task: "TaskRecipe", name: str) -> tuple[str, "Dataset"]:
    """The split that a dataset is reported on, test before validation by their usual names, and its name."""
    found = _splits(task, name, {"test": None, "validation": None})
    for split, dataset in found.items():
        if dataset is not None:
            return split, dataset
    raise ValueError(f"task.unseen must have a test or a validation split; {name} has neither: name another dataset")


def _splits(task: "TaskRecipe", name: str, asked: dict[str, str | None]) -> "dict[str, Dataset | None]":
    """The splits of one dataset by what they are for; `asked` says their names, None the usual ones."""
    path = Path(place(name))
    if name.startswith("builtin:"):
        if name not in BUILTIN:
            raise ValueError(f"a builtin dataset must be one of {', '.join(BUILTIN)}; got {name!r}")
        parts = BUILTIN[name]()
    elif path.exists():
        if task.config is not None:
            raise ValueError(f"task.config is for datasets on the hub; {name} is a local path: leave task.config out")
        files = _folder(path) if path.is_dir() else {"train": [path]}
        chosen = {_choose(files, split, own, name) for split, own in asked.items()} - {None}
        parts = {split: _local(files[split]) for split in files if split in chosen}
    else:
        parts = _hub(name, task.config)
    picked = {split: _choose(parts, split, own, name) for split, own in asked.items()}
    datasets = {split: parts[key] if key is not None else None for split, key in picked.items()}
    for split, dataset in datasets.items():
        if dataset is not None:
            optional = {task.label} if split != "train" else set()  # a test split may come without labels
            datasets[split] = _columns(dataset, (*task.text, task.label), optional, f"{split} split of {name}")
    return datasets


def unlabelled(texts: "TextsRecipe") -> list[str]:
    """The text column of one split, read as `read` does; None where a row has no text."""
    from compress.recipe import TaskRecipe

    task = TaskRecipe(
        dataset=texts.dataset, config=texts.config, train=texts.split, text=(texts.text,), label=texts.text
    )
    (found,) = read(task)
    column: list[str] = found.train[texts.text][:]
    if odd := next((value for value in column if not isinstance(value, str | None)), None):
        raise ValueError(f"a corpus needs text; column {texts.text!r} of {texts.dataset} holds {odd!r}: name another")
    return column


def _choose(parts: dict[str, Any], split: str, asked: str | None, where: str) -> str | None:
    """The key of `parts` that is this split: the one asked for, or the first usual name."""
    if asked is not None:
        if asked not in parts:
            raise ValueError(
                f"task.{split} must name a split of {where}; got {asked!r}{nearest(asked, list(parts))}, "
                f"found {', '.join(parts) or 'none'}"
            )
        return asked
    usual = [name for name in USUAL[split] if name in parts]
    if usual or split != "train":
        return usual[0] if usual else None
    others = [name for name in parts if name not in (*USUAL["validation"], *USUAL["test"])]
    if len(parts) == len(others) == 1:
        return others[0]
    raise ValueError(
        f"a dataset needs rows to train on; {where} has {', '.join(parts) or 'no splits'} but no train: "
        "name the split in task.train"
    )


def _columns(dataset: "Dataset", wanted: tuple[str, ...], optional: set[str], where: str) -> "Dataset":
    for column in wanted:
        if column not in dataset.column_names and column not in optional:
            raise ValueError(
                f"no column {column!r} in the {where}{nearest(column, dataset.column_names)}; it has "
                f"{', '.join(map(repr, dataset.column_names))}: set task.text and task.label to these"
            )
    return dataset.select_columns([name for name in dataset.column_names if name in wanted])


def _folder(folder: Path) -> dict[str, list[Path]]:
    """A folder's data files by split name."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in FORMATS and not path.name.startswith("."):
            files.setdefault(re.sub(r"-\d+-of-\d+$", "", path.stem), []).append(path)
    if not files:
        raise ValueError(f"a dataset folder must hold train.* in one of {FORMAT_NAMES}; {folder} has none of these")
    for split, paths in files.items():
        if len({path.suffix for path in paths}) > 1:
            raise ValueError(
                f"a split must be one file; {folder} has {' and '.join(path.name for path in paths)} for {split!r}: "
                "remove all but one"
            )
    return files


def _local(paths: list[Path]) -> "Dataset":
    import datasets

    if paths[0].suffix not in FORMATS:
        raise ValueError(f"a data file must be one of {FORMAT_NAMES}; got {paths[0]}: convert it")
    builder, options = FORMATS[paths[0].suffix]
    if all(_is_empty(path) for path in paths):
        raise ValueError(f"every split needs rows; {paths[0]} is empty: fill it or remove it")
    # Read into memory and leave no cache: texts become Python strings anyway, and a cached copy could be stale.
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        try:
            reader = getattr(datasets.Dataset, f"from_{builder}")  # load_dataset would report each call to a server
            files = [str(path.resolve()) for path in paths]
            dataset: Dataset = reader(files, cache_dir=scratch, keep_in_memory=True, **options)
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
            cause = error.__cause__ or error
            reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
            raise ValueError(f"cannot read {paths[0]} as {builder}: {reason}; mend the file") from error
    if paths[0].suffix == ".tsv":
        _check_quotes(dataset, paths[0])
    return dataset


def _is_empty(path: Path) -> bool:
    """Whether a file has no rows, of which `datasets` speaks in other words for each format."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        with contextlib.suppress(ValueError, OSError):  # a damaged file: reading it will tell what is wrong
            return bool(pyarrow.parquet.read_metadata(path).num_rows == 0)
        return False
    header = 1 if path.suffix in (".csv", ".tsv") else 0
    with path.open("rb") as lines:
        return next(itertools.islice(filter(bytes.strip, lines), header, None), None) is None


def _check_quotes(dataset: "Dataset", path: Path) -> None:
    """Raise ValueError where a cell holds whole lines: a quote that opens a cell and never closes swallows rows."""
    for column in dataset.column_names:
        for row, value in enumerate(dataset[column][:]):
            if isinstance(value, str) and "\t" in value and "\n" in value:
                raise ValueError(
                    f"a quote that opens a cell must close; row {row} (counted from 0) of {path} runs over several "
                    f"lines in column {column!r}: double the quotes inside cells, or convert it to parquet or jsonl"
                )


def _hub(name: str, config: str | None) -> "dict[str, Dataset]":
    import datasets

    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or Path(name).suffix in FORMATS or name.startswith("."):
        raise ValueError(f"task.dataset must be a path that exists or a name on the hub; there is no {name}")
    try:
        with _quiet():
            return dict(datasets.load_dataset(name, config))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"cannot read dataset {name!r}, taken as a name on the Hugging Face hub because no such local path exists: "
            f"{reason}; check the path, or the name, task.config and the connection"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of `datasets`, which would tear those of training, and no log beside the error."""
    import datasets
    from huggingface_hub.utils import logging

    were_on, levels = datasets.is_progress_bar_enabled(), (logging.get_verbosity(), datasets.logging.get_verbosity())
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what went wrong is in the exception
    try:
        yield
    finally:
        logging.set_verbosity(levels[0])
        datasets.logging.set_verbosity(levels[1])
        if were_on:
            datasets.enable_progress_bars()
