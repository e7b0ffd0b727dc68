"""Where a text is cut into sentences, on texts written by hand."""

import time

import pytest

from compress.data.sentences import sentences, split

CASES = {
    "": [],
    " \n ": [],
    "One sentence": ["One sentence"],
    "It ends. And begins! Does it? 3 times.": ["It ends.", "And begins!", "Does it?", "3 times."],
    "Version 2.5 of e.g. this stays whole.": ["Version 2.5 of e.g. this stays whole."],
    "It ends.Without a space": ["It ends.Without a space"],
    "Wait... what? no": ["Wait... what? no"],
    "Wait... What?! No": ["Wait...", "What?!", "No"],
    'He said "no." "Why?" she asked. (It rained.) Then': ['He said "no."', '"Why?" she asked.', "(It rained.)", "Then"],
    "“Gut.” „Ja.“ Élan. Ärger": ["“Gut.”", "„Ja.“ Élan.", "Ärger"],
    "first line\nsecond line\r\n\r\nthird": ["first line", "second line", "third"],
    "good<br /><br />bad <BR> ugly<br/>end": ["good", "bad", "ugly", "end"],
    "Mr. Smith went.  \t Home.": ["Mr.", "Smith went.", "Home."],
    "No end. ": ["No end."],
}


@pytest.mark.parametrize(("text", "wanted"), CASES.items())
def test_a_text_is_cut_where_sentences_end(text: str, wanted: list[str]) -> None:
    assert sentences(text) == wanted


def test_sentences_too_short_or_too_long_are_left_out() -> None:
    texts = ["One two. One two three. One.", "One two three four.\nOne two three"]
    assert list(split(texts)) == ["One two.", "One two three.", "One.", "One two three four.", "One two three"]
    assert list(split(texts, shortest=2, longest=3)) == ["One two.", "One two three.", "One two three"]


@pytest.mark.parametrize(("shortest", "longest"), [(0, None), (3, 2)])
def test_lengths_that_no_sentence_has_are_refused(shortest: int, longest: int | None) -> None:
    with pytest.raises(ValueError, match=f"shortest must be 1 or more and at most longest, got {shortest}"):
        list(split(["A text."], shortest=shortest, longest=longest))


@pytest.mark.parametrize("part", ["!", ' "', ". ", "<br", "<br ", '."', " ", "a. B"])
def test_no_text_takes_more_than_linear_time(part: str) -> None:
    start = time.process_time()
    sentences("x." + part * 200_000 + "y")
    assert time.process_time() - start < 2
