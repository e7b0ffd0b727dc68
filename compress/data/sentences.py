"""Long texts as single sentences, so that a corpus of reviews can stand in for one of sentences.

A sentence ends at a line break or <br />, and behind . ! ? … (with the quotes and brackets that close there) where
white space follows and then a capital, a digit or an opening quote or bracket. Nothing is known of abbreviations:
"Mr. Smith" becomes two.
"""

import re
from collections.abc import Iterable, Iterator

LINE = re.compile(r"[\r\n\v\f\x85\u2028\u2029]|<br\s*+/?+>", re.IGNORECASE)
CLOSING = "\"'”’»)\\]"
OPENING = "\"'“‘„«([¿¡"
STOP = re.compile(rf"(?<=[.!?…])[{CLOSING}]*+(\s++)(?=(\S))")


def sentences(text: str) -> list[str]:
    """The sentences of a text in order, without white space around them; none are empty."""
    return [sentence for line in LINE.split(text) for sentence in _of_line(line.strip())]


def split(texts: Iterable[str], *, shortest: int = 1, longest: int | None = None) -> Iterator[str]:
    """The sentences of all texts that have `shortest` to `longest` words, by white space; others are left out."""
    if shortest < 1 or (longest is not None and longest < shortest):
        raise ValueError(f"shortest must be 1 or more and at most longest, got {shortest} and {longest}")
    for text in texts:
        for sentence in sentences(text):
            size = len(sentence.split())
            if size >= shortest and (longest is None or size <= longest):
                yield sentence


def _of_line(line: str) -> Iterator[str]:
    start = 0
    for stop in STOP.finditer(line):
        follows = stop[2]
        if follows.isupper() or follows.isdigit() or follows in OPENING:
            yield line[start : stop.start(1)]
            start = stop.end(1)
    if start < len(line):
        yield line[start:]
