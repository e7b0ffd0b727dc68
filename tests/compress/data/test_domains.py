"""Several datasets as domains of one task, and one that is only reported on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from compress.data import Data, load
from compress.recipe import Recipe, TaskRecipe
from tests.compress.conftest import MINIMAL


def rows(domain: str, split: str, n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"text": [f"{domain} {split} {i}" for i in range(n)], "label": [("bad", "good")[i % 2] for i in range(n)]}
    )


@pytest.fixture
def domains(tmp_path: Path) -> dict[str, str]:
    found = {}
    for number, domain in enumerate(("books", "films", "pans")):
        (tmp_path / domain).mkdir()
        for split, n in (("train", 40 + 10 * number), ("validation", 10), ("test", 20)):
            rows(domain, split, n).to_parquet(tmp_path / domain / f"{split}.parquet")
        found[domain] = str(tmp_path / domain)
    return found


def loaded(*names: str, **fields: Any) -> Data:
    return load(TaskRecipe(dataset=names, **fields), seed=0)


def from_domains(texts: list[Any]) -> dict[str, int]:
    words = [text.split()[0] for text in texts]
    return {word: words.count(word) for word in dict.fromkeys(words)}


def test_one_dataset_is_a_list_of_one(domains: dict[str, str]) -> None:
    alone = load(TaskRecipe(dataset=domains["books"]), seed=0)
    assert loaded(domains["books"]).fingerprint == alone.fingerprint


def test_domains_are_put_together(domains: dict[str, str]) -> None:
    data = loaded(domains["books"], domains["films"])
    assert from_domains(data.train.texts) == {"books": 40, "films": 50}
    assert from_domains(data.selection.texts) == {"books": 10, "films": 10}
    assert from_domains(data.reports["test"].texts) == {"books": 20, "films": 20} and list(data.reports) == ["test"]


def test_the_limit_is_shared_out_evenly(domains: dict[str, str]) -> None:
    data = loaded(*domains.values(), limit=60)
    assert from_domains(data.train.texts) == {"books": 20, "films": 20, "pans": 20}
    for domain in domains:
        mine = [
            label for text, label in zip(data.train.texts, data.train.labels, strict=True) if text.startswith(domain)
        ]
        assert np.bincount(mine).tolist() == [10, 10]


def test_an_unseen_domain_is_reported_and_nothing_else(domains: dict[str, str]) -> None:
    data = loaded(domains["books"], domains["films"], unseen=domains["pans"])
    assert {name: from_domains(part.texts) for name, part in data.reports.items()} == {
        "test": {"pans": 20},
        "known": {"books": 20, "films": 20},
    }
    assert "pans" not in from_domains([*data.train.texts, *data.selection.texts])
    assert any("known that of what is trained on" in note for note in data.notes)


def test_one_domain_may_be_reported_on_another(domains: dict[str, str]) -> None:
    data = load(TaskRecipe(dataset=domains["films"], unseen=domains["pans"], limit=30), seed=0)
    assert len(data.train) == 30 and from_domains(data.reports["test"].texts) == {"pans": 20}


def test_known_domains_may_be_reported_on_another_split(domains: dict[str, str], tmp_path: Path) -> None:
    """As where a domain's test split is all of it, for those that train on other domains."""
    for domain in domains:
        parts = [pd.read_parquet(tmp_path / domain / f"{split}.parquet") for split in ("train", "validation", "test")]
        pd.concat(parts).to_parquet(tmp_path / domain / "test.parquet")
    data = loaded(domains["books"], domains["films"], unseen=domains["pans"], test="validation", selection=0.2)
    assert from_domains(data.train.texts) == {"books": 32, "films": 40}
    assert from_domains(data.selection.texts) == {"books": 8, "films": 10}
    assert {name: len(part) for name, part in data.reports.items()} == {"test": 60 + 10 + 20, "known": 20}


def test_an_unseen_domain_needs_no_training_rows(domains: dict[str, str], tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "pans" / f"{split}.parquet").unlink()
    data = loaded(domains["books"], unseen=domains["pans"])
    assert len(data.reports["test"]) == 10
    (tmp_path / "pans" / "validation.parquet").rename(tmp_path / "pans" / "more.parquet")
    with pytest.raises(ValueError, match=r"task.unseen must have a test or a validation split; .*pans has neither"):
        loaded(domains["books"], unseen=domains["pans"])


def test_texts_leak_from_no_domain_to_another(domains: dict[str, str], tmp_path: Path) -> None:
    leaks = {
        ("films", "train"): ["pans test 3", "BOOKS  test 1", "books validation 2"],
        ("books", "validation"): ["pans test 4"],
    }
    for (domain, split), texts in leaks.items():
        path = tmp_path / domain / f"{split}.parquet"
        frame = pd.read_parquet(path)
        frame.loc[: len(texts) - 1, "text"] = texts
        frame.to_parquet(path)
    data = loaded(domains["books"], domains["films"], unseen=domains["pans"])
    assert from_domains(data.train.texts) == {"books": 40, "films": 47}
    assert from_domains(data.selection.texts) == {"books": 9, "films": 10}
    assert sum("rows dropped" in note for note in data.notes) == 4


def test_domains_of_other_columns_are_refused(domains: dict[str, str], tmp_path: Path) -> None:
    frame = pd.read_parquet(tmp_path / "films" / "train.parquet")
    frame.assign(label=[i % 2 for i in range(len(frame))]).to_parquet(tmp_path / "films" / "train.parquet")
    with pytest.raises(ValueError, match="must have columns of the same types"):
        loaded(domains["books"], domains["films"])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"dataset": []}, "got none"),
        ({"dataset": ["a", "b", "a"]}, "got a twice"),
        ({"dataset": ["a", "b"], "unseen": "b"}, "got b twice"),
    ],
)
def test_a_domain_stands_there_once(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.of(MINIMAL | {"task": task}, "here")
