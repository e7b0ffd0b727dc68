"""The model's file: what is written is read, other tools can read it, and nothing damaged is."""

import json
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from serve.errors import ArtefactError
from serve.ngram.file import DTYPES, Model, read, write
from serve.ngram.words import KIND, LETTER, Characters
from tests.serve.ngram.models import model


@pytest.fixture(scope="module")
def made(table: Characters) -> Model:
    return model(table)


@pytest.fixture(scope="module")
def content(made: Model, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "ngrams.safetensors"
    write(path, made)
    return path.read_bytes()


@pytest.fixture
def path(content: bytes, tmp_path: Path) -> Path:
    target = tmp_path / "ngrams.safetensors"
    target.write_bytes(content)
    return target


def test_what_is_written_is_read(made: Model, path: Path) -> None:
    found = read(path)
    assert len(fields(Model)) == 14
    for field in fields(Model):
        ours, theirs = getattr(made, field.name), getattr(found, field.name)
        if field.name == "characters":
            np.testing.assert_array_equal(ours.flat(), theirs.flat())
        else:
            np.testing.assert_array_equal(ours, theirs)


def test_safetensors_reads_the_same_arrays(made: Model, path: Path) -> None:
    found = load_file(path)
    assert set(found) == set(DTYPES) and len(found) == 11
    np.testing.assert_array_equal(found["rows"], made.rows)
    np.testing.assert_array_equal(found["keys"], made.keys)
    np.testing.assert_array_equal(found["displacement"], made.displacement)
    np.testing.assert_array_equal(found["pages"][found["index"]].reshape(-1), made.characters.flat())


def test_arrays_are_mapped_and_aligned(path: Path) -> None:
    found = read(path)
    for name in DTYPES:
        array = getattr(found.characters if name in ("pages", "index") else found, name)
        assert not array.flags.owndata and not array.flags.writeable and array.flags.aligned, name
    assert found.rows.ctypes.data % 64 == 0


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.001, 0.3, 0.9, 0.999999])
def test_a_file_cut_short_is_refused(path: Path, content: bytes, share: float) -> None:
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtefactError, match=str(path)):
        read(path)


def test_a_file_with_more_behind_it_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content + b"\0")
    with pytest.raises(ArtefactError, match="bytes, expected"):
        read(path)


def test_a_flipped_bit_anywhere_is_refused(path: Path, content: bytes) -> None:
    """Of the data each, of the header those that change what it says: blanks and names of formats may change."""
    start = 8 + struct.unpack("<Q", content[:8])[0]
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(start, len(content), 40).tolist(), start, len(content) - 1]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError, match=str(path)):
            read(path)
    assert len(places) == 50


def test_a_flipped_bit_of_the_header_never_does_more_than_an_error(path: Path, content: bytes) -> None:
    start = 8 + struct.unpack("<Q", content[:8])[0]
    refused = 0
    rng = np.random.default_rng(0)
    for place in rng.integers(8, start, 300):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            read(path)
        except ArtefactError:
            refused += 1
    assert refused > 200


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for target in (tmp_path / "none", tmp_path):
        with pytest.raises(ArtefactError, match="cannot be read"):
            read(target)


HEADS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer": (lambda head: told(head, version=2), "version 2"),
    "orders": (lambda head: told(head, orders=5), "orders must be one of 1, 2, 3, 4, got 5"),
    "inputs": (lambda head: told(head, inputs=3), "inputs must be one of 1, 2, got 3"),
    "pairs": (lambda head: told(head, inputs=2), "dense_weight must be float32"),
    "activation": (lambda head: told(head, activation="gelu"), "activation must be one of tanh, relu"),
    "even": (lambda head: told(head, multipliers=[2, 3]), "multiplier must be odd"),
    "three": (lambda head: told(head, multipliers=[1, 3, 5]), "too many values"),
    "missing": (lambda head: head.pop("scale"), "'scale' is missing"),
    "dtype": (lambda head: head["keys"].update(dtype="I64"), "keys must be of type U64"),
    "negative": (lambda head: head["rows"].update(shape=[-1, 32]), "rows must be of type I8"),
    "huge": (lambda head: head["rows"].update(shape=[1 << 60, 1 << 60]), "rows must be of type I8"),
    "moved": (lambda head: head["tags"].update(data_offsets=[0, 64]), "tags must lie at"),
    "shape": (lambda head: head["dense_weight"].update(shape=[32, 24]), "dense_weight must be float32"),
    "flat": (lambda head: head["rows"].update(shape=[head["rows"]["shape"][0] * 32]), "must be"),
    "no metadata": (lambda head: head.pop("__metadata__"), "'__metadata__' is missing"),
}


def told(head: dict[str, Any], **changes: Any) -> None:
    said = json.loads(head["__metadata__"]["bantam"])
    head["__metadata__"]["bantam"] = json.dumps({**said, **changes})


@pytest.mark.parametrize("what", HEADS)
def test_a_header_that_says_something_else_is_refused(path: Path, content: bytes, what: str) -> None:
    change, words = HEADS[what]
    start = 8 + struct.unpack("<Q", content[:8])[0]
    head = json.loads(content[8:start])
    change(head)
    new = json.dumps(head).encode()
    new += b" " * (-(8 + len(new)) % 64)
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[start:])
    with pytest.raises(ArtefactError, match=words):
        read(path)


def test_parts_that_do_not_fit_are_refused(made: Model) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"rows": made.rows[:-1]}, "rows must be int8"),
        ({"rows": made.rows[:, :24]}, "width must be a multiple of 16"),
        ({"keys": made.keys[:-1]}, "slots must be a power of two"),
        ({"tags": made.tags[:8]}, "tags must be uint8"),
        ({"scale": made.scale.astype(np.float64)}, "scale must be float32"),
        ({"scale": np.full_like(made.scale, np.nan)}, "scale must be finite"),
        ({"out_bias": np.full_like(made.out_bias, np.inf)}, "out_bias must be finite"),
        ({"out_weight": made.out_weight[:, 1:]}, "out_weight must be float32"),
        ({"displacement": made.displacement[:4]}, "displacement must be uint16"),
    ]
    for changes, words in wrong:
        with pytest.raises(ValueError, match=words):
            replace(made, **changes)


def test_tables_of_characters_that_would_not_split_alike_are_refused(made: Model) -> None:
    def changed(**entries: int) -> Characters:
        flat = made.characters.flat().copy()
        for char, entry in entries.items():
            flat[ord(char)] = entry
        return Characters(np.arange(4352, dtype=np.uint16), flat.reshape(-1, 256))

    wrong = [
        (changed(a=9 << KIND), "5 kinds"),
        (changed(a=-1), "5 kinds"),
        (changed(a=LETTER << KIND | 0x110000), "code point"),
        (changed(a=LETTER << KIND | ord("B")), "stands for itself"),
        (changed(a=LETTER << KIND | ord("!")), "stands for itself"),
        (changed(**{" ": LETTER << KIND | ord(" ")}), "a space must part words"),
        (changed(**{"\ud800": LETTER << KIND | 0xD800}), "no letter"),
        (replace(made.characters, pages=made.characters.pages[:5]), "pages below 5"),
    ]
    for table, words in wrong:
        with pytest.raises(ValueError, match=words):
            replace(made, characters=table)


def test_rows_and_tags_that_are_not_the_keys_are_not_written(made: Model, tmp_path: Path) -> None:
    rows, tags = made.rows.copy(), made.tags.copy()
    rows[-1, 3] = 1
    tags[np.nonzero(made.keys)[0][0]] ^= 1
    for wrong, words in ((replace(made, rows=rows), "must be zeros"), (replace(made, tags=tags), "those of the keys")):
        with pytest.raises(ValueError, match=words):
            write(tmp_path / "model", wrong)
    assert not (tmp_path / "model").exists()
