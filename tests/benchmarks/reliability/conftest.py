"""A place for checks: our own service with a toy artefact, or a small server with a fault."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.reliability.__main__ import messages
from benchmarks.reliability.service import Place, Service, ours
from serve.artefact import load

BAD = Path(__file__).with_name("bad_server.py")

Faulty = Callable[..., Place]


@pytest.fixture
def faulty(tmp_path: Path, student: Path) -> Faulty:
    """`faulty("late", seconds=1.0)`: a place whose service has that fault; "none" has none."""

    def made(fault: str, *, seconds: float = 0.6, requests: int = 400, deadline: float = 0.3) -> Place:
        return Place(
            start=lambda workers, variables: Service(
                lambda port: [sys.executable, str(BAD), str(port), fault, str(workers)], {**os.environ, **variables}
            ),
            messages=messages(load(student), ["a good film", "a bad film"], 1),
            scratch=tmp_path,
            seconds=seconds,
            requests=requests,
            deadline=deadline,
        )

    return made


@pytest.fixture
def own(tmp_path: Path, student: Path) -> Callable[..., Place]:
    """A place with our own service."""
    artefact = load(student)

    def made(*, seconds: float = 0.5, requests: int = 1000) -> Place:
        start = ours(artefact.root, {"BANTAM_RUNTIME": "onnxruntime"})
        asked = messages(artefact, ["a good film", "a bad film with no plot"], 1)
        return Place(start=start, messages=asked, scratch=tmp_path, seconds=seconds, requests=requests)

    return made
