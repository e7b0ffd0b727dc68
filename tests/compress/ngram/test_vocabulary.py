"""Vocabularies against scikit-learn's CountVectorizer over the same words and the contract's keys, spelt out here."""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from compress.ngram import names as naming
from compress.ngram import vocabulary as counting
from compress.ngram.names import names
from compress.ngram.vocabulary import Largest, Vocabulary, count
from serve.ngram.words import Characters, characters, words

ROOT = Path(__file__).parents[3]
SMALL = 1 << 18  # bytes: a buffer of 16,384 n-grams
TABLE = characters()


def real() -> list[str]:
    """The lines of our own pages, most of them English sentences."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    assert len(pages) >= 5
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    assert len(lines) > 500
    return lines


def made(seed: int) -> list[str]:
    """Texts of words that follow a steep law, some of them empty, one of a single word, one long."""
    rng = random.Random(seed)
    stock = [chr(97 + a) + chr(97 + b) * 3 for a in range(26) for b in range(26)]
    stock += ["don't", "Ärger", "很好", "😀", "?!"]
    texts = [[stock[int(len(stock) * rng.random() ** 3)] for _ in range(rng.randint(0, 12))] for _ in range(3_000)]
    return [" ".join(text) for text in [*texts, ["alone"], stock * 3]]


def key(gram: tuple[str, ...]) -> int:
    """The key of an n-gram as the contract has it."""
    total = 0
    for word in gram:
        data = word.encode()
        one = len(data) * 0x9E3779B97F4A7C15 % 2**64
        for at in range(0, len(data), 8):
            one = (one ^ int.from_bytes(data[at : at + 8], "little")) * 0xD6E8FEB86659FD93 % 2**64
            one ^= one >> 32
        total = (total * 0xA0761D6478BD642F + one) % 2**64
    return total


def counted(texts: list[str], orders: int) -> dict[tuple[str, ...], int]:
    """Each n-gram's count by scikit-learn."""
    vectors = CountVectorizer(
        tokenizer=lambda text: words(text, TABLE), token_pattern=None, lowercase=False, ngram_range=(1, orders)
    )
    sums = np.asarray(vectors.fit_transform(texts).sum(axis=0)).ravel()
    return {tuple(gram.split(" ")): int(sums[at]) for gram, at in vectors.vocabulary_.items()}


def ranked(counts: dict[tuple[str, ...], int]) -> list[tuple[int, int]]:
    return sorted(((key(gram), often) for gram, often in counts.items()), key=lambda pair: (-pair[1], pair[0]))


def pairs(made: Vocabulary) -> list[tuple[int, int]]:
    return list(zip(made.keys.tolist(), made.counts.tolist(), strict=True))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(counting, "LEAST_MEMORY", SMALL)
    return SMALL


@pytest.mark.parametrize("orders", [1, 2, 4])
@pytest.mark.parametrize("corpus", [real, lambda: made(0)], ids=["real", "made"])
def test_counts_are_those_of_scikit_learn(
    corpus: Callable[[], list[str]], orders: int, small: int, tmp_path: Path
) -> None:
    texts = corpus()
    wanted = ranked(counted(texts, orders))
    roomy = count(texts, orders=orders, rows=10**6, characters=TABLE, folder=tmp_path)
    assert pairs(roomy) == wanted  # all of them, since there are fewer than rows
    assert (roomy.texts, roomy.distinct, roomy.spilled) == (len(texts), len(wanted), 0)
    assert roomy.ngrams == sum(often for _, often in wanted)
    tight = count(iter(texts), orders=orders, rows=1_000, characters=TABLE, memory=small, folder=tmp_path)
    assert pairs(tight) == wanted[:1_000]
    assert (tight.distinct, tight.ngrams) == (roomy.distinct, roomy.ngrams)
    assert (tight.spilled > 0) == (orders > 1)


def test_n_grams_that_come_too_seldom_are_left_out() -> None:
    texts = made(1)
    wanted = [pair for pair in ranked(counted(texts, 2)) if pair[1] >= 2]
    assert pairs(count(texts, orders=2, rows=10**6, characters=TABLE, least=2)) == wanted


@pytest.mark.parametrize("rows", [1, 3, 7, 40, 1_000])
@pytest.mark.parametrize("least", [1, 2])
def test_of_equal_counts_the_smaller_key_stays(rows: int, least: int) -> None:
    rng = np.random.default_rng(rows)
    keys, counts = np.arange(5, 605, dtype=np.uint64), rng.integers(1, 5, 600)
    every = sorted((-often, key) for key, often in zip(keys.tolist(), counts.tolist(), strict=True) if often >= least)
    largest = Largest(rows, least)
    for part in np.split(np.arange(600), [1, 9, 300, 302]):
        largest.add(keys[part], counts[part])
    found = zip(*(part.tolist() for part in largest.ordered()), strict=True)
    assert [(-often, key) for key, often in found] == every[:rows]


def test_a_text_that_comes_twice_counts_twice() -> None:
    texts = real()[:200]
    once, twice = (count(part, orders=3, rows=10**5, characters=TABLE) for part in (texts, texts * 2))
    assert pairs(twice) == [(key, 2 * often) for key, often in pairs(once)]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "a vocabulary needs texts with words; got 0 texts"),
        (["", " .,; "], "got 2 texts and no word in them"),
        ("one string", "got one string: put it into a list"),
        (["good", None], "text 1 is None"),
        (["good", "bad \ud800"], "text 1 has half a character"),
    ],
)
def test_texts_that_cannot_be_counted_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count(texts, orders=2, rows=10, characters=TABLE)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"orders": 5}, "orders must be 1 to 4, got 5"),
        ({"rows": 0}, "rows and least must be 1 or more, got 0 and 1"),
        ({"rows": 10**6, "memory": 10**8}, "memory must be at least 256,000,000 bytes for 1,000,000 rows"),
        ({"least": 3}, "n-grams that come 3 times; none of 3 does"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count(["one two"], characters=TABLE, **({"orders": 2, "rows": 10} | wrong))


def test_an_interrupted_count_leaves_nothing_on_disk(small: int, tmp_path: Path) -> None:
    def handles() -> list[str]:
        links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
        return [link.name for link in links if link.is_symlink() and str(tmp_path) in os.readlink(link)]

    def texts() -> Iterator[str]:
        yield from made(0)
        assert handles() and not list(tmp_path.iterdir())  # it did spill, to a file without a name
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count(texts(), orders=4, rows=100, characters=TABLE, memory=small, folder=tmp_path)
    assert not handles() and not list(tmp_path.iterdir())


PEAK = """
import random, re, sys
from pathlib import Path
from compress.ngram.vocabulary import count
from serve.ngram.words import characters

def resident(line):
    return 1024 * int(re.search(rf"{line}:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

def texts(number):
    rng = random.Random(0)
    for _ in range(number):
        yield " ".join([str(rng.randrange(3000)) for _ in range(25)])

table, memory = characters(), 8 << 20
count(texts(100), orders=4, rows=1000, characters=table)
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = resident("VmRSS")
made = count(texts(24000), orders=4, rows=10000, characters=table, memory=memory, folder=Path(sys.argv[1]))
print(resident("VmHWM") - before, made.spilled, made.ngrams, memory)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read as Linux tells it")
def test_memory_stays_within_what_was_given(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    grown, spilled, ngrams, memory = map(int, done.stdout.split())
    assert 8 * ngrams > 1.5 * memory and spilled > memory / 2  # what was counted would not have fitted
    assert memory / 3 < grown <= memory


def test_each_key_gets_the_words_of_its_n_gram() -> None:
    texts = real()
    wanted = {key(gram): " ".join(gram) for gram in counted(texts, 3)}
    vocabulary = count(texts, orders=3, rows=2_000, characters=TABLE)
    found = names(vocabulary, texts, TABLE)
    assert found.names == [wanted[key] for key in vocabulary.keys.tolist()]
    assert found.collisions == 0
    assert names(vocabulary, [], TABLE).names == [""] * 2_000


def test_keys_that_stand_for_two_n_grams_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = {np.uint64(key(("cat",))): np.uint64(key(("dog",)))}

    def colliding(texts: list[str], table: Characters) -> tuple[np.ndarray, np.ndarray]:
        keys, ends = whole(texts, table)
        return np.array([alike.get(one, one) for one in keys], dtype=np.uint64), ends

    whole = counting.word_keys
    monkeypatch.setattr(counting, "word_keys", colliding)
    monkeypatch.setattr(naming, "word_keys", colliding)
    texts = ["the dog sat", "a cat sat down", "the cat and the dog", "cat", "the mat"]
    vocabulary = count(texts, orders=2, rows=100, characters=TABLE)
    grams = counted(texts, 2)
    alike_grams = Counter(swapped(gram) for gram in grams)
    assert sorted(gram for gram, often in alike_grams.items() if often > 1) == [
        ("dog",),
        ("dog", "sat"),
        ("the", "dog"),
    ]
    assert len(vocabulary.keys) == len(alike_grams)
    assert names(vocabulary, texts, TABLE).collisions == 3


def swapped(gram: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("dog" if word == "cat" else word for word in gram)
