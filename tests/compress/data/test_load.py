"""Datasets from files: what a column means, where splits come from, and what is refused."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from compress.data import Data, load
from compress.data.load import unlabelled
from compress.data.splits import carved, key
from compress.recipe import TaskRecipe

WRITERS = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "parquet": lambda frame, path: frame.to_parquet(path),
}


def rows(n: int, *, label: Any = lambda i: ("good", "bad")[i % 2], start: int = 0) -> pd.DataFrame:
    texts = [f'Text no. {i}, with "quotes"' for i in range(start, start + n)]
    return pd.DataFrame({"text": texts, "label": [label(i) for i in range(start, start + n)]})


def folder(path: Path, form: str = "parquet", **parts: pd.DataFrame) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for split, frame in parts.items():
        WRITERS[form](frame, path / f"{split}.{form}")
    return path


def loaded(dataset: Path, *, seed: int = 0, **fields: Any) -> Data:
    return load(TaskRecipe(dataset=str(dataset), **fields), seed=seed)


def three(**label: Any) -> dict[str, pd.DataFrame]:
    return {
        "train": rows(40, **label),
        "validation": rows(10, start=100, **label),
        "test": rows(20, start=200, **label),
    }


@pytest.mark.parametrize("form", WRITERS)
def test_each_format_gives_the_rows_that_pandas_wrote(tmp_path: Path, form: str) -> None:
    parts = three()
    data = loaded(folder(tmp_path, form, **parts))
    assert (data.kind, data.labels, data.columns, data.metric) == (
        "classification",
        ("bad", "good"),
        ("text",),
        "accuracy",
    )
    for examples, frame in ((data.train, parts["train"]), (data.selection, parts["validation"])):
        assert examples.texts == frame["text"].tolist()
        assert [data.labels[i] for i in examples.labels] == frame["label"].tolist()
    assert list(data.reports) == ["test"] and data.reports["test"].texts == parts["test"]["text"].tolist()
    assert data.train.labels.dtype == np.int64 and data.notes == ()


def test_the_fingerprint_depends_on_the_rows_and_not_on_the_file(tmp_path: Path) -> None:
    prints = {form: loaded(folder(tmp_path / form, form, **three())).fingerprint for form in WRITERS}
    assert len(set(prints.values())) == 1 and len(prints) == 4
    changed = three()
    changed["test"].loc[3, "text"] += "!"
    assert loaded(folder(tmp_path / "changed", **changed)).fingerprint != prints["csv"]


def test_scores_have_the_same_fingerprint_in_csv_and_parquet(tmp_path: Path) -> None:
    parts = three(label=lambda i: i / 7)
    assert len({loaded(folder(tmp_path / form, form, **parts)).fingerprint for form in WRITERS}) == 1


def test_pairs_with_a_float_label_are_a_regression(tmp_path: Path) -> None:
    frame = rows(50, label=lambda i: i / 10)
    frame["other"] = [f"other {i}" for i in range(50)]
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    data = loaded(tmp_path / "pairs.csv", text=("text", "other"))
    assert (data.kind, data.labels, data.metric) == ("regression", ("score",), "spearman")
    assert data.train.labels.dtype == np.float32
    scores = {(row.text, row.other): row.label for row in frame.itertuples()}
    for part in (data.train, data.selection, data.reports["test"]):
        assert [scores[text] for text in part.texts] == pytest.approx(part.labels.tolist())


@pytest.mark.parametrize(
    ("label", "kind", "expected"),
    [
        (lambda i: i % 3, "auto", ("0", "1", "2")),
        (lambda i: (2, 10)[i % 2], "auto", ("2", "10")),
        (lambda i: (-1, 1)[i % 2], "auto", ("-1", "1")),
        (lambda i: float(i % 3), "auto", ("0", "1", "2")),
        (lambda i: i % 2 == 0, "auto", ("false", "true")),
        (lambda i: ("None", "NA")[i % 2], "auto", ("NA", "None")),
        (lambda i: i % 3, "regression", ("score",)),
        (lambda i: float(i % 30), "auto", ("score",)),
        (lambda i: float(i % 30), "classification", tuple(str(i) for i in range(30))),
        (lambda i: (0.0, 0.5, 1.0)[i % 3], "auto", ("score",)),
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_what_a_label_column_means(tmp_path: Path, form: str, label: Any, kind: str, expected: tuple[str, ...]) -> None:
    parts = {"train": rows(90, label=label), "test": rows(30, start=90, label=label)}
    data = loaded(folder(tmp_path, form, **parts), kind=kind)
    assert data.labels == expected
    if data.kind == "regression":
        assert data.reports["test"].labels.tolist() == [float(v) for v in parts["test"]["label"]]


def test_a_declared_class_label_keeps_its_names_and_order(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["zebra", "ant"])}
    )
    for split, n in (("train", 20), ("validation", 4), ("test", 4)):
        datasets.Dataset.from_list(
            [{"text": f"{split} {i}", "label": i % 2} for i in range(n)], features=features
        ).to_parquet(tmp_path / f"{split}.parquet")
    data = loaded(tmp_path)
    assert data.labels == ("zebra", "ant")
    assert data.train.labels.tolist() == [0, 1] * 10


def test_evaluation_labels_are_matched_by_name_whatever_their_type(tmp_path: Path) -> None:
    parts = {"train": rows(40, label=lambda i: i % 2), "test": rows(10, start=50, label=lambda i: float(i % 2))}
    data = loaded(folder(tmp_path, **parts))
    assert data.reports["test"].labels.tolist() == [0, 1] * 5


@pytest.mark.parametrize("name", ["dev", "valid", "val", "validation"])
def test_with_validation_alone_it_is_reported_and_selection_carved(tmp_path: Path, name: str) -> None:
    data = loaded(folder(tmp_path, **{"train": rows(100), name: rows(10, start=100)}))
    assert list(data.reports) == ["validation"] and len(data.reports["validation"]) == 10
    assert (len(data.train), len(data.selection)) == (90, 10)
    assert np.bincount(data.selection.labels).tolist() == [5, 5]


def test_a_test_split_of_minus_ones_is_unlabelled_and_noted(tmp_path: Path) -> None:
    parts = three(label=lambda i: i % 2)
    parts["test"]["label"] = -1
    data = loaded(folder(tmp_path, **parts))
    assert list(data.reports) == ["validation"]
    assert "the test split has no labels" in data.notes[0]
    with pytest.raises(ValueError, match="task.test must name a labelled split"):
        loaded(tmp_path, test="test")


def test_a_test_split_without_the_label_column_is_unlabelled(tmp_path: Path) -> None:
    parts = three()
    parts["test"] = parts["test"].drop(columns="label")
    assert list(loaded(folder(tmp_path, **parts)).reports) == ["validation"]


def test_task_selection_carves_from_train_and_reports_both_splits(tmp_path: Path) -> None:
    data = loaded(folder(tmp_path, **three()), selection=0.25)
    assert {name: len(part) for name, part in data.reports.items()} == {"validation": 10, "test": 20}
    assert (len(data.train), len(data.selection)) == (30, 10)


def test_a_single_file_is_carved_without_overlap_and_the_same_each_time(tmp_path: Path) -> None:
    rows(200).to_csv(tmp_path / "all.csv", index=False)
    first, again, other = (loaded(tmp_path / "all.csv", seed=seed) for seed in (3, 3, 4))
    sizes = len(first.train), len(first.selection), len(first.reports["test"])
    assert sizes == (144, 16, 40)
    texts = [set(part.texts) for part in (first.train, first.selection, first.reports["test"])]
    assert len(set.union(*texts)) == sum(map(len, texts)) == 200
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_named_splits_are_used_and_unknown_ones_refused(tmp_path: Path) -> None:
    folder(tmp_path, fit=rows(40), held=rows(10, start=100))
    assert len(loaded(tmp_path, train="fit", test="held").reports["test"]) == 10
    with pytest.raises(ValueError, match=r"task.test must name a split .* got 'helt' \(did you mean 'held'\?\)"):
        loaded(tmp_path, train="fit", test="helt")


def test_relative_and_home_paths_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "sets", **three())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loaded(Path("sets")).fingerprint == load(TaskRecipe(dataset="~/sets"), seed=0).fingerprint


def test_training_rows_that_stand_in_a_report_or_the_selection_are_dropped(tmp_path: Path) -> None:
    parts = three()
    parts["train"].loc[0, "text"] = parts["test"].loc[0, "text"].upper().replace(" ", "\t ")
    parts["train"].loc[1, "text"] = parts["validation"].loc[1, "text"]
    parts["validation"].loc[2, "text"] = parts["test"].loc[2, "text"]
    data = loaded(folder(tmp_path, **parts))
    assert data.train.texts == parts["train"]["text"].tolist()[2:]
    assert (len(data.selection), len(data.reports["test"])) == (9, 20)
    assert len(data.notes) == 3 and "1 training rows dropped whose text also stands in a report" in data.notes[0]


def test_no_text_is_in_two_splits_when_a_file_repeats_its_texts(tmp_path: Path) -> None:
    frame = pd.concat([rows(100), rows(100)])
    frame.to_parquet(tmp_path / "twice.parquet")
    data = loaded(tmp_path / "twice.parquet")
    parts = [{key(text) for text in part.texts} for part in (data.train, data.selection, data.reports["test"])]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_carving_keeps_shares_as_scikit_learn_does() -> None:
    labels = np.random.default_rng(0).choice(4, size=1000, p=[0.6, 0.3, 0.08, 0.02])
    ours = carved(labels, "classification", 100, np.random.default_rng(1))
    theirs = next(StratifiedShuffleSplit(1, test_size=100, random_state=0).split(labels, labels))[1]
    assert len(ours) == len(set(ours.tolist())) == 100
    assert np.abs(np.bincount(labels[ours]) - np.bincount(labels[theirs])).max() <= 1


def test_carving_scores_keeps_their_distribution() -> None:
    scores = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    taken = scores[carved(scores, "regression", 100, np.random.default_rng(1))]
    counts = np.histogram(taken, np.quantile(scores, np.linspace(0, 1, 11)))[0]
    assert np.abs(counts - 10).max() <= 1


def test_a_limit_keeps_every_class(tmp_path: Path) -> None:
    parts = {"train": rows(400, label=lambda i: "rare" if i == 399 else ("a", "b")[i % 2]), "test": rows(10, start=500)}
    parts["test"]["label"] = "a"
    data = loaded(folder(tmp_path, **parts), limit=21)
    assert np.bincount(data.train.labels).tolist() == [10, 10, 1]
    assert "limited to 21" in data.notes[-1]
    with pytest.raises(ValueError, match=r"task.limit must keep a row of each of the 3 classes; got 2"):
        loaded(tmp_path, limit=2)


def asked(questions: int, start: int = 0) -> pd.DataFrame:
    """Five candidates a question, the first one right, but none of every fourth question."""
    numbers = [i for i in range(start, start + questions) for _ in range(5)]
    return pd.DataFrame(
        {
            "question": [f"What is {i}?" for i in numbers],
            "answer": [f"It is {i} and {at}." for at, i in enumerate(numbers)],
            "label": [int(at % 5 == 0 and i % 4 > 0) for at, i in enumerate(numbers)],
        }
    )


def ranked(dataset: Path, **fields: Any) -> Data:
    return loaded(dataset, text=("question", "answer"), metric="map", **fields)


def questions(part: Any) -> set[str]:
    return {question for question, _ in part.texts}


def test_ranked_candidates_are_carved_by_question(tmp_path: Path) -> None:
    asked(80).sample(frac=1, random_state=0).to_parquet(tmp_path / "all.parquet")
    data = ranked(tmp_path)
    parts = [data.train, data.selection, data.reports["test"]]
    assert [len(part) for part in parts] == [5 * 58, 5 * 6, 5 * 16]
    assert [len(questions(part)) for part in parts] == [58, 6, 16]
    assert len(set.union(*map(questions, parts))) == 80
    usable = [len({text[0] for text, y in zip(part.texts, part.labels, strict=True) if y}) for part in parts]
    assert abs(usable[2] - 12) <= 1 and abs(usable[1] - 4.5) <= 1
    assert data.fingerprint == ranked(tmp_path).fingerprint
    torn = loaded(tmp_path, text=("question", "answer"))  # accuracy: by pair
    assert questions(torn.train) & questions(torn.selection)


def test_a_question_that_is_reported_leaves_training(tmp_path: Path) -> None:
    train = pd.concat([asked(40), asked(1, start=101).assign(answer="Another one.", question="what  IS 101?")])
    data = ranked(folder(tmp_path, train=train, test=asked(10, start=100)))
    assert not questions(data.train) & {"what  IS 101?"}
    assert any("5 training rows dropped whose question also stands in a report" in note for note in data.notes)


def test_whole_questions_are_drawn(tmp_path: Path) -> None:
    part = ranked(folder(tmp_path, train=asked(40), test=asked(30, start=100))).reports["test"]
    drawn = part.drawn(52, seed=0, ranked=True)
    assert len(drawn) == 50 and len(questions(drawn)) == 10
    assert len(part.drawn(2, seed=0, ranked=True)) == 5
    assert part.drawn(500, seed=0, ranked=True).texts == part.texts


def test_what_cannot_be_ranked_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "a", "map ranks candidates.*two columns", task={"metric": "map"}, **three())
    classes = three(label=lambda i: i % 3)
    refused(tmp_path / "b", "two classes", task={"metric": "mrr", "text": ("text", "text")}, **classes)
    scores = three(label=lambda i: i / 8)
    refused(tmp_path / "c", "task.metric must be one of mse", task={"metric": "p@1"}, **scores)
    with pytest.raises(ValueError, match="too few questions"):
        ranked(folder(tmp_path / "d", train=asked(1, start=1), test=asked(10, start=100)), selection=0.3)


def refused(
    tmp_path: Path, match: str, form: str = "parquet", /, *, task: dict[str, Any] | None = None, **parts: Any
) -> None:
    with pytest.raises(ValueError, match=match):
        loaded(folder(tmp_path, form, **parts), **(task or {}))


def test_a_missing_column_is_named_with_its_nearest(tmp_path: Path) -> None:
    refused(tmp_path, r"no column 'txt' .*did you mean 'text'\?.*'text', 'label'", task={"text": ("txt",)}, **three())
    refused(tmp_path, r"no column 'lable' in the train .*did you mean 'label'", task={"label": "lable"})


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_refused(tmp_path: Path, form: str, split: str) -> None:
    refused(tmp_path, f"{split}.* is empty", form, **(three() | {split: rows(0)}))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    with pytest.raises(ValueError, match=r"train.csv is empty"):
        loaded(tmp_path)


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "at least two different labels; .* holds only 'same'", **three(label=lambda i: "same"))
    refused(tmp_path, "at least two different labels; .* holds only '0.5'", **three(label=lambda i: 0.5))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_labels_unseen_in_training_are_named(tmp_path: Path, split: str) -> None:
    parts = three()
    parts[split].loc[0, "label"] = "ugly"
    refused(tmp_path, f"the {split} split of .* also has 'ugly'.*trained: bad, good", **parts)


def test_a_declared_class_without_training_rows_cannot_be_evaluated(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    for split, classes in (("train", 2), ("validation", 2), ("test", 3)):
        datasets.Dataset.from_list(
            [{"text": f"{split} {i}", "label": i % classes} for i in range(12)], features=features
        ).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match="the test split of .* also has 'c'"):
        loaded(tmp_path)


@pytest.mark.parametrize(("column", "what"), [("text", "a text"), ("label", "a label")])
def test_missing_cells_are_counted_and_the_first_named(tmp_path: Path, column: str, what: str) -> None:
    parts = three()
    parts["train"].loc[[7, 9], column] = None
    for form in ("csv", "parquet", "jsonl"):
        refused(tmp_path / form, f"needs {what}; 2 of 40 rows .*'{column}', the first is row 7", form, **parts)


def test_wrong_types_are_refused(tmp_path: Path) -> None:
    parts = three(label=lambda i: i % 2)
    refused(
        tmp_path / "a", "must hold strings; 'label' in the train .* holds int64", task={"text": ("label",)}, **parts
    )
    refused(tmp_path / "b", "must be a class name or a number; .* holds list", **three(label=lambda i: [i]))
    refused(tmp_path / "c", "needs a column of numbers; .* holds strings", task={"kind": "regression"}, **three())
    floats = three(label=lambda i: i / 8)
    refused(tmp_path / "d", "classes must be names or whole numbers", task={"kind": "classification"}, **floats)


def test_a_metric_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "task.metric must be one for classes.*'spearman'", task={"metric": "spearman"}, **three())
    scores = three(label=lambda i: i / 8)
    refused(tmp_path, "task.metric must be one of mse, pearson, spearman", task={"metric": "accuracy"}, **scores)


def test_a_damaged_file_is_one_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"cannot read .*train.parquet as parquet"):
        loaded(tmp_path)
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 1}\n{"text": \n')
    with pytest.raises(ValueError, match=r"cannot read .*train.jsonl as json"):
        loaded(tmp_path)


def test_an_unclosed_quote_in_a_tsv_does_not_swallow_rows_unseen(tmp_path: Path) -> None:
    lines = [
        "text\tlabel",
        '"an open quote\tgood',
        "b\tbad",
        'a " closes it"\tgood',
        *(f"t{i}\tbad" for i in range(20)),
    ]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="a quote that opens a cell must close; row 0"):
        loaded(tmp_path)


def test_unknown_paths_and_extensions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"must be one of parquet, csv, tsv, jsonl, json; got .*rows.xlsx"):
        loaded(tmp_path / "rows.xlsx")
    with pytest.raises(ValueError, match="must hold train"):
        loaded(tmp_path)
    with pytest.raises(ValueError, match="path that exists or a name on the hub; there is no"):
        loaded(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="a builtin dataset must be one of builtin:film-reviews"):
        load(TaskRecipe(dataset="builtin:films"), seed=0)


def test_an_unreachable_hub_name_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any) -> None:
        raise ConnectionError("Couldn't reach 'glue' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError, match="'glue', taken as a name on the Hugging Face hub because no such local path"):
        load(TaskRecipe(dataset="glue", config="sst2"), seed=0)


def test_a_split_in_two_formats_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, "csv", **three())
    folder(tmp_path, "jsonl", **three())
    with pytest.raises(ValueError, match="a split must be one file; .*test.csv and test.jsonl"):
        loaded(tmp_path)


def scored(n: int, start: int = 0, low: float = 1.0) -> pd.DataFrame:
    pairs = rows(n, start=start, label=lambda i: low + 4 * ((i * 7) % n) / (n - 1))
    return pairs.rename(columns={"text": "left", "label": "score"}).assign(right=[f"and no. {i}" for i in range(n)])


def embedded(dataset: Path, **fields: Any) -> Data:
    return loaded(dataset, **{"text": ("left", "right"), "label": "score", "kind": "embedding"} | fields)


def test_pairs_of_an_embedding_come_apart_with_scores_from_0_to_1(tmp_path: Path) -> None:
    parts = {"train": scored(40), "validation": scored(10, 100), "test": scored(20, 200)}
    data = embedded(folder(tmp_path, **parts))
    assert (data.kind, data.labels, data.columns, data.metric) == (
        "embedding",
        (),
        ("left", "right"),
        "cosine_spearman",
    )
    for examples, frame in ((data.train, parts["train"]), (data.reports["test"], parts["test"])):
        assert examples.texts == [text for pair in zip(frame["left"], frame["right"], strict=True) for text in pair]
        np.testing.assert_allclose(examples.labels, (frame["score"].to_numpy().repeat(2) - 1) / 4, atol=1e-6)
        assert examples.together == 2
        assert examples.joined().texts == list(zip(frame["left"], frame["right"], strict=True))
    assert "scores from 1 to 5 are cosines from 0 to 1" in data.notes[-1]


def test_texts_are_drawn_in_whole_pairs(tmp_path: Path) -> None:
    data = embedded(folder(tmp_path, train=scored(60)))
    drawn = data.train.drawn(21, seed=3)
    assert len(drawn) == 20 and len(set(drawn.texts)) == 20
    before = dict(zip(data.train.joined().texts, data.train.joined().labels, strict=True))
    assert dict(zip(drawn.joined().texts, drawn.joined().labels, strict=True)).items() <= before.items()
    assert drawn.texts != data.train.drawn(21, seed=4).texts


def test_a_text_that_is_reported_is_not_learned_from_the_corpus(tmp_path: Path) -> None:
    data = embedded(folder(tmp_path, train=scored(40), validation=scored(10, 100), test=scored(20, 200)))
    found = unlabelled(["something else", "AND no. 3", data.reports["test"].texts[0]], data)
    assert found.texts == ["something else"] and np.isnan(found.labels).all()


@pytest.mark.parametrize(
    ("metric", "found"),
    [(None, "cosine_spearman"), ("pearson", "cosine_pearson"), ("cosine_pearson", "cosine_pearson")],
)
def test_an_embedding_is_judged_by_its_cosines(tmp_path: Path, metric: str | None, found: str) -> None:
    assert embedded(folder(tmp_path, train=scored(60)), metric=metric).metric == found


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"metric": "accuracy"}, "must be spearman or pearson, got 'accuracy'"),
        ({"limit": 1}, "all training pairs have the score .* raise task.limit"),
    ],
)
def test_what_cannot_judge_an_embedding_is_refused(tmp_path: Path, fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        embedded(folder(tmp_path, train=scored(60)), **fields)
