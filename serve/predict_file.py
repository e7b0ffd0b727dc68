"""`bantam predict`: a file of texts in, a file of answers out, in pieces so that neither must fit in memory."""

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from serve.artefact import Artefact
from serve.encode import Text, check_inputs
from serve.errors import BantamError, InputError
from serve.runtime import Session
from serve.tables import read_texts


def predict_file(
    artefact: Artefact | Path | str,
    source: str,
    target: str,
    batch: int = 256,
    progress: bool = True,
    *,
    form: str | None = None,
    model: str | None = None,
    runtime: str | None = None,
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, Any]:
    """Answer each text of `source` with a line of JSON in `target`, in order; "-" is standard input or output.

    `form` is "txt", "jsonl", "csv", "tsv" or "parquet"; by default the file's ending says it, and standard input is
    looked at. A line is {"label", "score", "scores": {label: score}, "truncated"}; regression has only "score",
    and an embedding has {"embedding": [numbers], "truncated"}.
    `batch` texts are in memory at once; how many run together is the model's own affair, so it changes no answer.
    A file appears under its name once it is complete. Returns rows, truncated, tokens, output.
    """
    if source != "-" and target != "-" and Path(source).resolve() == Path(target).resolve():
        raise InputError(f"{target} is the input too; write the answers to another file")
    if batch < 1:
        raise InputError(f"batch must be 1 or more, got {batch}")
    session = Session(artefact, model=model, runtime=runtime, device=device, threads=threads)
    task = session.artefact.manifest.task
    rows = truncated = tokens = 0
    with (
        read_texts(source, form, task.columns, task.inputs) as texts,
        _output(target) as out,
        _bar(progress) as advance,
    ):
        while chunk := list(islice(texts, batch)):
            _check(chunk, task.inputs, rows, source)
            got = session.predict(chunk)
            for scores, cut in zip(got.scores.tolist(), got.truncated, strict=True):
                out.write(_line(scores, session.labels, task.kind, cut))
            rows += len(chunk)
            truncated += sum(got.truncated)
            tokens += got.tokens
            advance(len(chunk))
        if not rows:
            raise InputError(f"{_name(source)} holds no texts")
    return {"rows": rows, "truncated": truncated, "tokens": tokens, "output": target}


def _line(scores: list[float], labels: tuple[str, ...], kind: str, truncated: bool) -> bytes:
    if kind == "regression":
        answer: dict[str, Any] = {"score": scores[0]}
    elif kind == "embedding":
        answer = {"embedding": scores}
    else:
        best = max(range(len(scores)), key=scores.__getitem__)
        answer = {
            "label": labels[best],
            "score": scores[best],
            "scores": dict(zip(labels, scores, strict=True)),
        }
    return orjson.dumps({**answer, "truncated": truncated}) + b"\n"


def _check(chunk: list[Text], inputs: int, before: int, source: str) -> None:
    """As over HTTP, with the row's number in the file."""
    try:
        check_inputs(chunk, inputs)
    except InputError:
        for at, text in enumerate(chunk):
            try:
                check_inputs([text], inputs)
            except InputError as error:
                detail = str(error).replace("text 0", f"row {before + at + 1}")
                raise type(error)(f"{_name(source)}: {detail}") from None


@contextmanager
def _output(target: str) -> Iterator[BinaryIO]:
    """A file that takes its name only when the block ends well."""
    if target == "-":
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
            raise BantamError("standard output was closed before all answers were written") from None
        return
    final = Path(target)
    if final.is_dir():
        raise InputError(f"{final} is a folder; name a file")
    partial = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(final)
    except OSError as error:
        raise BantamError(f"{final} was not written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _bar(shown: bool) -> Iterator[Any]:
    if not shown:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("predicting"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        job = progress.add_task("predicting", total=None)
        yield lambda count: progress.advance(job, count)


def _name(source: str) -> str:
    return "standard input" if source == "-" else source
