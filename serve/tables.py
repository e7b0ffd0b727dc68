"""Texts out of txt, jsonl, csv, tsv and parquet files, one at a time."""

import csv
import difflib
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from serve.encode import Text
from serve.errors import InputError

FORMS = ("txt", "jsonl", "csv", "tsv", "parquet")
ENDINGS = {".txt": "txt", ".text": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
ENDINGS |= {".parquet": "parquet"}


@contextmanager
def read_texts(source: str, form: str | None, columns: Sequence[str], inputs: int) -> Iterator[Iterator[Text]]:
    """The texts of `source`. Columns are the task's own; a single text may also be called "text" or "inputs"."""
    if form is not None and form not in FORMS:
        raise InputError(f"format must be one of {', '.join(FORMS)}, got {form!r}")
    if source == "-":
        yield _texts(sys.stdin.buffer, "standard input", form or _sniff(sys.stdin.buffer), columns, inputs)
        return
    path = Path(source)
    form = form or ENDINGS.get(path.suffix.lower())
    if form is None:
        raise InputError(f"{source}: cannot tell its format from its ending; name one of {', '.join(FORMS)}")
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from None
    with file:
        yield _texts(file, source, form, columns, inputs)


def _texts(file: BinaryIO, name: str, form: str, columns: Sequence[str], inputs: int) -> Iterator[Text]:
    if form == "txt":
        if inputs != 1:
            raise InputError(
                f"{name}: a txt file has one text a line, but this model takes pairs; use jsonl, csv or tsv"
            )
        return _lines(file, name)
    rows = {"jsonl": _jsonl, "csv": _csv, "tsv": _tsv, "parquet": _parquet}[form](file, name)
    return _pick(rows, name, columns, inputs)


def _pick(rows: Iterator[dict[str, Any]], name: str, columns: Sequence[str], inputs: int) -> Iterator[Text]:
    wanted: tuple[str, ...] = ()
    for at, row in enumerate(rows, 1):
        if not all(column in row for column in wanted) or not wanted:
            wanted = _columns(list(row), name, columns, inputs)
        texts = tuple(row[column] for column in wanted)
        for column, text in zip(wanted, texts, strict=True):
            if not isinstance(text, str):
                raise InputError(f"{name}: row {at} has no text in {column!r}, got {type(text).__name__}")
        yield texts[0] if len(texts) == 1 else (texts[0], texts[1])


def _columns(there: list[str], name: str, columns: Sequence[str], inputs: int) -> tuple[str, ...]:
    candidates = [tuple(columns)] if len(columns) == inputs else []
    candidates += [("text",), ("inputs",)] if inputs == 1 else []
    for candidate in candidates:
        if set(candidate) <= set(there):
            return candidate
    expected = list(columns) or ["text"]
    near = [match for column in expected for match in difflib.get_close_matches(column, there, n=2, cutoff=0.4)]
    shown = ", ".join(repr(column) for column in (near or there)[:8])
    raise InputError(
        f"{name}: column {' and '.join(repr(column) for column in expected)} not found; "
        + (f"nearest there: {shown}" if near else f"there are: {shown}")
    )


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    for at, line in enumerate(file, 1):
        yield _utf8(line.rstrip(b"\r\n"), name, at)


def _jsonl(file: BinaryIO, name: str) -> Iterator[dict[str, Any]]:
    for at, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{name}: line {at} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f'{name}: line {at} must be an object such as {{"text": "..."}}')
        yield row


def _csv(file: BinaryIO, name: str, delimiter: str = ",") -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 30)
    lines = (_utf8(line, name, at) for at, line in enumerate(file, 1))
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(f"{name}: line {reader.line_num}: {error}") from None


def _tsv(file: BinaryIO, name: str) -> Iterator[dict[str, Any]]:
    return _csv(file, name, "\t")


def _parquet(file: BinaryIO, name: str) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise InputError("reading parquet needs pyarrow; run: pip install 'bantam[compress]'") from error
    if not file.seekable():
        file = io.BytesIO(file.read())  # parquet's index lies at its end
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise InputError(f"{name} is not a parquet file that can be read: {error}") from None


def _sniff(file: Any) -> str:
    start = file.peek(64)[:64].lstrip()
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.startswith(b"{") else "txt"


def _utf8(line: bytes, name: str, at: int) -> str:
    try:
        return line.decode("utf-8-sig" if at == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: line {at} is not UTF-8: {error.reason}") from None
