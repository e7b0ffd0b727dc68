"""Documents say what is there: links lead somewhere, commands and their options exist, Python blocks compile."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md"))
    if path.is_file()
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def blocks(text: str, *languages: str) -> Iterator[str]:
    """The fenced blocks in these languages."""
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if language in languages:
            yield body


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `bantam` and `make` command, lines joined, pipes and the like cut off."""
    for body in blocks(text, "sh", "bash", "console"):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and words[0] in ("bantam", "make"):
                ends = [i for i, word in enumerate(words) if word in ("|", "&", "&&", ";", ">", "<", "2>")]
                yield words[: ends[0]] if ends else words


def test_documents_are_found() -> None:
    assert {"README.md", "CHANGELOG.md"} <= set(NAMES)


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_relative_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_commands_and_their_options_exist(path: Path) -> None:
    from bantam.cli import app

    group = typer.main.get_command(app)
    assert isinstance(group, click.Group | typer.core.TyperGroup)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for words in commands(path.read_text(encoding="utf-8")):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, shlex.join(words)
        elif len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in group.commands, shlex.join(words)
            known = {option for param in group.commands[words[1]].params for option in param.opts} | {"--help"}
            used = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
            assert used <= known, shlex.join(words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_python_blocks_compile(path: Path) -> None:
    for body in blocks(path.read_text(encoding="utf-8"), "python"):
        compile(body, str(path), "exec")


def test_no_document_names_a_place_of_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:home|root|Users|work|tmp)/\w")
    assert [name for name, path in zip(NAMES, DOCUMENTS, strict=True) if pattern.search(path.read_text("utf-8"))] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_tables_are_those_of_the_reports(path: Path) -> None:
    """`python -m benchmarks.table --into DOCUMENT` makes them anew."""
    from benchmarks.table import filled

    assert filled(path) == path.read_text(encoding="utf-8")


def test_the_picture_is_that_of_the_report() -> None:
    """`python -m benchmarks.picture benchmarks/results/demo.json > docs/demo.svg` makes it anew."""
    from benchmarks.picture import picture

    assert picture(ROOT / "benchmarks/results/demo.json") == (ROOT / "docs/demo.svg").read_text(encoding="utf-8")


def test_settings_are_those_of_the_service() -> None:
    from serve.settings import table

    assert (ROOT / "docs" / "serving.md").read_text().endswith(f"<!-- settings -->\n{table()}\n")


def test_methods_are_those_of_the_catalogue() -> None:
    """`python -m compress.methods docs/methods.md` makes the page anew."""
    from compress.methods import page

    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == page()
