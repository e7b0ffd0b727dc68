"""The splits that all peers share."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.static import task
from tests.benchmarks.static.conftest import rows, write


def test_selection_is_carved_from_train_and_no_text_stands_in_two_splits(folder: Path, tmp_path: Path) -> None:
    train = rows(60, 0)
    reported = rows(4, 9)
    write(folder / "train.csv", [*train, *reported, *train])
    write(folder / "test.csv", reported)
    (folder / "validation.csv").unlink()
    extra = write(tmp_path / "more.csv", [reported[0], ("new words", "good")], ("text", "label"))
    found = task.load(folder, text="sentence", label="mood", extra=extra)
    assert found.judged == "test" and found.labels == ("bad", "good")
    assert len(found.selection) == 12  # a tenth of the 120 rows that are left
    texts = [set(split.texts) for split in (found.train, found.selection, *found.reports.values())]
    assert sum(map(len, texts)) == len(set().union(*texts))
    assert set().union(*texts) == {text for text, _ in [*train, *reported]}
    assert found.extra is not None and found.extra.texts == ["new words"]
    assert found.about() == task.load(folder, text="sentence", label="mood", extra=extra).about()


def test_labels_stay_with_their_texts(folder: Path) -> None:
    found = task.load(folder, text="sentence", label="mood")
    words = {"good": "fine great charming warm".split(), "bad": "dull poor long flat".split()}
    splits = [found.train, found.selection, *found.reports.values()]
    assert len(splits) == 4
    for split in splits:
        for text, label in zip(split.texts, split.labels, strict=True):
            assert set(text.split()) <= set(words[label])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "train.csv").unlink(), "must have a train split"),
        (lambda folder: [(folder / f"{name}.csv").unlink() for name in ("validation", "test")], "validation or test"),
        (lambda folder: write(folder / "test.csv", [("x", "sad")]), "labels must be among bad, good.*got sad"),
        (lambda folder: write(folder / "train.csv", rows(60, 0), ("text", "mood")), "a column 'sentence'"),
        (lambda folder: write(folder / "train.csv", rows(8, 0)), "10 rows or more"),
        (lambda folder: write(folder / "train.csv", [("x", "good")] * 20), "two labels or more"),
        (lambda folder: (folder / "test.csv").write_text("sentence,mood\n"), "no rows"),
    ],
)
def test_bad_data_is_one_error(folder: Path, change: object, said: str) -> None:
    change(folder)  # type: ignore[operator]
    with pytest.raises(ValueError, match=said):
        task.load(folder, text="sentence", label="mood")


def test_a_missing_folder_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        task.load(tmp_path / "none", text="sentence", label="mood")
