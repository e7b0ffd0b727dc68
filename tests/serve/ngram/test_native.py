"""The n-gram student in C: words, keys, slots and logits are those of Python and numpy, bit for bit, on any path."""

import dataclasses
import platform
import random
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.encode import Text
from serve.engine import build
from serve.engine.network import Declined
from serve.errors import InputError
from serve.ngram import keys, library, words
from serve.ngram.library import Native
from serve.ngram.plain import Plain
from serve.ngram.words import Characters
from tests.serve.native import up_to_date
from tests.serve.ngram.conftest import ENGLISH, random_texts
from tests.serve.ngram.models import model

PATHS = ("avx512", "avx2", "plain") if platform.machine() in ("x86_64", "AMD64") else ("plain",)
CONTRACTED = (
    "don't it's we'll n't 'n't can't've o'neil rock'n'roll 's ''t n'tx n't' Isn’t I'M x'll's!'d ?'re日本'ven't 'S"
)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    up_to_date()


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    if not library.paths()[request.param]:
        pytest.skip(f"this processor has no {request.param}")
    return str(request.param)


def english(rng: random.Random, count: int) -> list[str]:
    """Texts of up to 300 words, of which a model that saw some knows many."""
    return [" ".join(rng.choices(ENGLISH, k=rng.choice((0, 1, 2, 5, 20, 300)))) for _ in range(count)]


def same(found: Sequence[np.ndarray[Any, Any]], expected: Sequence[np.ndarray[Any, Any]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def test_the_paths_are_those_that_are_tested() -> None:
    assert tuple(library.paths()) == PATHS and library.paths()["plain"]
    assert library.choose("avx512bf16") == 0 if library.paths().get("avx512") else True
    with pytest.raises(Declined, match="no path 'sse'"):
        library.choose("sse")


def test_keys_of_random_texts_are_those_of_python(table: Characters, texts: list[str], path: str) -> None:
    more = random_texts(random.Random(1), 2000) + english(random.Random(1), 200)
    same(library.word_keys(texts + more, table, path=path), keys.word_keys(texts + more, table))


def test_words_lie_anywhere_in_a_text(table: Characters, path: str) -> None:
    """At each place of the 64 bytes that are read at once, of each length, at either end."""
    found = [" " * before + CONTRACTED[: len(CONTRACTED) - cut] for before in range(70) for cut in (0, 1, 2, 5, 30)]
    found += [some * before + "n't" + after for before in range(130) for some in "an?é" for after in ("", "s", "日")]
    found += ["ab" * 40 + CONTRACTED[start : start + size] for start in range(30) for size in range(70)]
    found += ["x" * size + end for size in range(140) for end in ("", "!", "'t", " y")]
    same(library.word_keys(found, table, path=path), keys.word_keys(found, table))


def test_every_character_is_what_the_table_says(table: Characters, path: str) -> None:
    codes = [*range(0x3400), *range(0xD000, 0xD800), *range(0xE000, 0x11000), *range(0x1D000, 0x20100, 3), 0x10FFFF]
    found = [f"a{chr(code)}b {chr(code)}'s{chr(code)}" for code in codes]
    found += ["".join(map(chr, codes[start : start + 3000])) for start in range(0, len(codes), 3000)]
    same(library.word_keys(found, table, path=path), keys.word_keys(found, table))


def test_another_table_gives_other_words(table: Characters, path: str) -> None:
    """ASCII is by the table, too: here Z is a digit, x is nothing, "." stands alone, and é stays."""
    pages = table.pages.copy()
    first = pages[table.index[0]].copy()
    first[[ord("Z"), ord("x"), ord("."), 0xE9]] = [
        words.LETTER << 24 | 0xE9,
        words.DROPPED << 24,
        words.ALONE << 24 | ord("."),
        words.LETTER << 24 | 0xE9,
    ]
    index = table.index.copy()
    index[0] = len(pages)
    other = Characters(index, np.concatenate([pages, first[None]]))
    found = ["Zoo x.y café.", "xxx", "do.n'xt", "x" * 200 + "Z" * 200, *random_texts(random.Random(2), 500)]
    same(library.word_keys(found, other, path=path), keys.word_keys(found, other))
    assert library.word_keys(found, table)[1].tolist() != library.word_keys(found, other)[1].tolist()


def test_long_words_and_long_texts_are_read_whole(table: Characters, path: str) -> None:
    found = ["a" * 1_000_000, "!" * 80_000, "é" * 300_001, "it's " * 10_000, "", "\0" * 1000, "a\0b", "end"]
    flat, ends = library.word_keys(found, table, path=path)
    same((flat, ends), keys.word_keys(found, table))
    assert np.diff(ends, prepend=0).tolist() == [1, 80_000, 1, 20_000, 0, 0, 2, 1]


SHAPES: tuple[dict[str, Any], ...] = (
    {"width": 64, "neurons": 64, "orders": 4},
    {"width": 16, "neurons": 1, "orders": 1, "labels": 1},
    {"width": 48, "neurons": 100, "orders": 2, "labels": 20, "activation": "relu"},
    {"width": 1024, "neurons": 17, "orders": 3, "labels": 16},
    {"width": 80, "neurons": 33, "orders": 4, "inputs": 2, "labels": 3},
    {"width": 128, "neurons": 64, "orders": 2, "inputs": 2, "activation": "relu"},
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_answers_have_the_bits_of_numpy(table: Characters, shape: dict[str, Any], path: str) -> None:
    rng = random.Random(3)
    known = english(rng, 60) + random_texts(rng, 60)
    single = known + english(rng, 60) + random_texts(rng, 200)
    found: list[Text] = list(single)
    if shape.get("inputs") == 2:
        found = list(zip(single, rng.sample(single, len(single)), strict=True))
    made = model(table, known, **shape)
    native, plain = Native(made, max_words=100, path=path), Plain(made, max_words=100)
    answers = native.texts(found)
    same(answers, plain.texts(found))
    assert answers[2].any() and not answers[2].all() and len(np.unique(answers[0][:, 0])) > 200
    same(native.slots(single), plain.slots(single))
    same(native.word_keys(single), plain.word_keys(single))
    assert len(native.slots(single)[0]) > 3000


def test_sums_of_extreme_rows_do_not_overflow(table: Characters, path: str) -> None:
    made = model(table, ["a b"], orders=1, width=80)
    for row in (-128, 127):
        rows = np.where(made.rows != 0, row, 0).astype(np.int8)
        extreme = dataclasses.replace(made, rows=rows)
        found: list[Text] = ["a " * count for count in (1, 255, 256, 257, 512, 513, 3000, 65_536)]
        same(Native(extreme, path=path).texts(found), Plain(extreme, max_words=65_536).texts(found))


def test_what_is_not_finite_stays_so(table: Characters, path: str) -> None:
    made = model(table, ["a b"])
    huge = dataclasses.replace(made, dense_weight=made.dense_weight * np.float32(1e37), scale=made.scale * 1000)
    for activation in ("tanh", "relu"):
        with np.errstate(all="ignore"):
            wild = dataclasses.replace(huge, activation=activation)
            expected = Plain(wild, max_words=9).texts(["a b", "b", "c"])[0]
        found = Native(wild, max_words=9, path=path).texts(["a b", "b", "c"])[0]
        np.testing.assert_array_equal(found, expected)
    assert not np.isfinite(expected).all()


@pytest.mark.parametrize("most", [1, 2, 7, 8, 9, 63, 64, 65])
def test_texts_are_cut_after_as_many_words(table: Characters, path: str, most: int) -> None:
    made = model(table, ["a the film it's good ! don't"], orders=4)
    count = (0, 1, most - 1, most, most + 1, 3 * most, 500)
    found: list[Text] = [end.join(["film"] * size) for size in count for end in (" ", "! ", " 's ")]
    native = Native(made, max_words=most, path=path)
    logits, read, truncated = native.texts(found)
    same((logits, read, truncated), Plain(made, max_words=most).texts(found))
    assert read.max() == most and truncated.any()


def test_answers_do_not_depend_on_the_texts_beside(table: Characters, path: str) -> None:
    rng = random.Random(4)
    made = model(table, english(rng, 50), orders=4, width=64)
    native = Native(made, path=path)
    found: list[Text] = [*english(rng, 1500), *random_texts(rng, 700), "good film " * 9000]
    rng.shuffle(found)
    together = native.texts(found)
    alone = [native.texts([text]) for text in found]
    same(together, [np.concatenate(parts) for parts in zip(*alone, strict=True)])
    same(native.texts(tuple(found[::-1])), [part[::-1] for part in together])


def test_no_texts_have_no_answers(table: Characters, path: str) -> None:
    native = Native(model(table, labels=3), path=path)
    logits, read, truncated = native.texts([])
    assert (logits.shape, read.shape, truncated.shape) == ((0, 3), (0,), (0,))
    for flat, ends in (native.slots([]), native.word_keys([])):
        assert len(flat) == len(ends) == 0
    assert native.texts(["", " "])[1].tolist() == [0, 0]


def test_threads_may_share_a_model(table: Characters) -> None:
    rng = random.Random(5)
    native = Native(model(table, english(rng, 40)))
    sets = [english(rng, 200) + random_texts(rng, 50) for _ in range(4)]
    alone = [native.texts(found) for found in sets]
    wrong: list[int] = []

    def work(at: int) -> None:
        found = [native.texts(sets[at])[0].tobytes() for _ in range(20)]
        wrong.extend(at for one in found if one != alone[at][0].tobytes())
        library.word_keys(sets[at], table)

    workers = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("wrong", [3, None, b"a", ("a",), ("a", "b"), "\ud800", "a\udfffb"])
def test_what_is_no_text_is_an_error(table: Characters, wrong: Any) -> None:
    native = Native(model(table))
    with pytest.raises(InputError, match="text 1 "):
        native.texts(["a", wrong])


@pytest.mark.parametrize("wrong", [3, "ab", ("a",), ("a", "b", "c"), ("a", 3), ("a", "\ud800")])
def test_what_is_no_pair_is_an_error(table: Characters, wrong: Any) -> None:
    native = Native(model(table, inputs=2))
    with pytest.raises(InputError):
        native.texts([("a", "b"), wrong])
    assert native.texts([("a", "b"), ("", "")])[1].tolist() == [2, 0]


def test_a_table_without_all_its_pages_is_refused(table: Characters) -> None:
    made = model(table)
    index = np.full_like(table.index, len(table.pages))
    object.__setattr__(made, "characters", Characters(index, table.pages))
    with pytest.raises(Declined, match="characters"):
        Native(made)


def test_time_is_told_by_what_it_went_to(table: Characters) -> None:
    rng = random.Random(6)
    native = Native(model(table), timed=True)
    native.texts(english(rng, 300))
    assert set(native.times()) == set(library.TIMES) == {"split", "lookup", "rows", "layers"}
    native.texts(english(rng, 300))
    assert all(native.times().values()) and not any(native.times().values())


def test_without_the_library_it_is_declined(table: Characters, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise Declined("it was not built")

    monkeypatch.setattr(library, "functions", absent)
    with pytest.raises(Declined, match="not built"):
        library.word_keys(["a"], table)
    with pytest.raises(Declined, match="not built"):
        Native(model(table))


def test_sanitizers_find_nothing_in_random_bytes_and_tables(tmp_path: Path) -> None:
    """On every path: only what was given is read and written, and all paths agree."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no compiler")
    flags = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer".split()
    here = Path(__file__).parent
    common = [compiler, *build.FLAGS, *flags, f"-I{build.SOURCE}", f"-I{here.parent / 'engine'}"]
    units = build.COMMON | (build.X86 if len(PATHS) > 1 else {})
    objects = []
    for name, (source, own) in units.items():
        if name.startswith("ngram_"):
            objects.append(str(tmp_path / f"{name}.o"))
            command = [*common, *own, "-c", str(build.SOURCE / source), "-o", objects[-1]]
            subprocess.run(command, check=True, timeout=600)
    assert len(objects) == 1 + len(PATHS)
    fuzz = tmp_path / "fuzz"
    subprocess.run([*common, str(here / "fuzz_ngram.c"), *objects, "-o", str(fuzz)], check=True, timeout=600)
    done = subprocess.run([fuzz, "1", "120"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 10_000, done.stdout
