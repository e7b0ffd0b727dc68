"""More texts of a task: copies in which some words are replaced by others that fit there, labels kept.

Jiao, Yin, Shang, Jiang, Chen, Li, Wang, Liu 2020, "TinyBERT: Distilling BERT for Natural Language Understanding",
https://arxiv.org/abs/1909.10351, section 3.2 and algorithm 1. Which words fit is told by a masked language model for
words of one word piece (`compress.candidates`) and by word vectors for the others, where a file of them is given.

Ours: a text keeps its layout, where the released code leaves its words with a space between; of a pair one text
varies while the other is the original, where in the release it is the last copy; a copy that stands in a split that
selects or is reported is dropped. As in the release, a word may be replaced by itself.

When it helps: small tasks, for techniques that ask a teacher for more than a label; the paper's student loses 7
points without.

When it does not help: where labels hang on single words (grammar, negation), since copies keep the label; and a
comparison must give its baseline the same texts and as many updates.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.data import splits
from compress.data.load import Data, Examples, Text
from compress.recipe import AugmentRecipe

WORDS = 100_000  # of a file of vectors, from its beginning
WORD = re.compile(r"(?<![\w'’-])[^\W\d_]+(?![\w'’-])")  # letters only, and no part of "don't" or "well-made"
STOP_WORDS = frozenset(
    "a about above after again against all also am an and any are as at be because been before being below between "
    "both but by can cannot could did do does doing down during each else ever few for from further had has have "
    "having he her here hers herself him himself his how i if in into is it its itself just may me might more most "
    "must my myself no nor not now of off on once only or other our ours ourselves out over own same shall she "
    "should so some such than that the their theirs them themselves then there these they this those through to too "
    "under until up upon us very was we were what when where which while who whom whose why will with within "
    "without would you your yours yourself yourselves".split()
)


@dataclass(frozen=True)
class Place:
    """A word of a text, and what may stand there instead."""

    start: int
    end: int
    words: tuple[str, ...]


def words(text: str) -> Iterator[tuple[int, int]]:
    """Where the words stand that may be replaced: of letters only, and no stop words."""
    return (found.span() for found in WORD.finditer(text) if found[0].lower() not in STOP_WORDS)


def copies(
    text: str, places: Sequence[Place], count: int, probability: float, random: np.random.Generator
) -> list[str]:
    """Algorithm 1: at most `count` texts, since one that is `text` or was there before does not count."""
    found = {text: None}
    for _ in range(count):
        parts, at = [], 0
        for place in places:
            word = place.words[random.integers(len(place.words))]
            if random.random() < probability:
                parts += [text[at : place.start], word]
                at = place.end
        found["".join([*parts, text[at:]])] = None
    return list(found)[1:]


def augmented(data: Data, places: Mapping[str, Sequence[Place]], options: AugmentRecipe, *, seed: int) -> Examples:
    """The copies of all training texts, with their labels; `places` holds what may be replaced in each text."""
    whole = data.train.joined()
    kept = {splits.key(text) for part in (data.selection, *data.reports.values()) for text in part.joined().texts}
    texts: list[Text] = []
    rows: list[int] = []
    for row, text in enumerate(whole.texts):
        columns = [text] if isinstance(text, str) else [*text]
        for at, column in enumerate(columns):
            random = np.random.default_rng([seed, row, at])
            for copy in copies(column, places[column], options.copies, options.probability, random):
                changed: Text = copy if isinstance(text, str) else ((copy, text[1]) if at == 0 else (text[0], copy))
                if splits.key(changed) not in kept:
                    texts.append(changed)
                    rows.append(row)
    made = Examples(texts, whole.labels[rows])
    return made if data.train.together == 1 else made.apart()


def neighbours(path: str, asked: Sequence[str], count: int) -> dict[str, list[str]]:
    """The `count` words whose vectors have the greatest cosine with that of each asked word, itself left out.

    A word that is not among the first of the file has none. Raises ValueError where the file is no list of vectors.
    """
    names, vectors = read(path)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    rows = {name: row for row, name in reversed([*enumerate(names)])}
    found = {}
    for word in asked:
        if (row := rows.get(word.lower())) is not None:
            cosines = vectors @ vectors[row]
            cosines[row] = -np.inf
            found[word] = [names[near] for near in np.argsort(-cosines, kind="stable")[:count] if near != row]
    return found


def read(path: str, most: int = WORDS) -> tuple[list[str], np.ndarray]:
    """Words and vectors [N, D] from the beginning of a text file: on each line a word and its numbers."""
    names: list[str] = []
    vectors: list[np.ndarray] = []
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                name, *told = (
                    line.rstrip("\n").split(" ") if not vectors else line.rstrip("\n").rsplit(" ", len(vectors[0]))
                )
                if len(told) < 2 or (vectors and len(told) != len(vectors[0])):
                    raise ValueError(f"line {number} has {len(told)} numbers")
                names.append(name)
                vectors.append(np.array(told, dtype=np.float32))
                if number == most:
                    break
    except (OSError, ValueError) as error:
        raise ValueError(
            "augment.vectors must be a text file with a word and its numbers on each line, as GloVe's are; "
            f"{path}: {error}"
        ) from None
    if not names:
        raise ValueError(f"augment.vectors must hold words; {path} is empty")
    return names, np.stack(vectors)
