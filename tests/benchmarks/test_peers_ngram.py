"""Peers and n-grams: our own code answers in every server, and who takes no code is left out."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers.bundle import SOURCE, bundle
from benchmarks.peers.catalogue import SERVERS
from serve.artefact import Artefact
from serve.ngram.words import characters
from serve.runtime import Session
from tests.serve.ngram.models import TEXTS, artefact, model

ASK = "import json, sys; from peer_model import open_model; print(json.dumps(open_model('.')(json.loads(sys.argv[1]))))"


@pytest.fixture
def ngrams(tmp_path: Path) -> Artefact:
    return artefact(tmp_path / "ngrams", model(characters()))


def test_a_peer_gives_the_answers_of_our_session(ngrams: Artefact, tmp_path: Path) -> None:
    folder = bundle(ngrams, tmp_path / "bundle")
    assert [path.name for path in folder.iterdir()] == ["peer.json"] and (SOURCE / "serve").is_dir()
    known = {**os.environ, "PYTHONPATH": str(SERVERS)}
    done = subprocess.run([sys.executable, "-c", ASK, json.dumps(TEXTS)], cwd=folder, env=known, capture_output=True)
    found = json.loads(done.stdout)
    session = Session(ngrams)
    scores = session.predict(TEXTS).scores
    assert [one["label"] for one in found] == [session.labels[at] for at in scores.argmax(axis=1)]
    assert [one["score"] for one in found] == pytest.approx(scores.max(axis=1).tolist())
    assert len({one["score"] for one in found}) == len(TEXTS)


def test_who_takes_no_code_is_left_out_and_the_table_says_so(
    ngrams: Artefact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.csv"
    with data.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([ngrams.manifest.task.columns, *([text] for text in TEXTS * 8)])
    order = [str(ngrams.root), "--data", str(data), "--json", str(tmp_path / "x.json"), "--peers", "infinity"]
    assert command.main(order) == 0
    said = capsys.readouterr().out
    assert "The same n-grams" in said and "Infinity is left out: it has no n-grams" in said
