"""Model files that are not what they claim are refused before anything of them is used."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.engine import build, file
from serve.engine.library import Compiled
from serve.engine.network import Declined
from tests.serve.engine.networks import aligned, network

FIELDS = (
    "layers width true_width vocabulary positions types head_size activation first_position skip_pad pad reads linears"
    " head_activation outputs unit"
).split()


def opened(data: bytes) -> Compiled:
    return Compiled(aligned(data))


def changed(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + int(value).to_bytes(4, "little") + data[at + 4 :]


@pytest.fixture(scope="module")
def good() -> bytes:
    return file.pack(network(width=64, neurons=(128, 64), sparse="16x4@0.7"))


def test_a_good_file_opens(good: bytes) -> None:
    engine = opened(good)
    assert (engine.vocabulary, engine.longest, engine.types, engine.outputs, engine.width) == (60, 40, 2, 3, 64)
    assert file.intact(np.frombuffer(good, np.uint8))
    assert not file.intact(np.frombuffer(good[:-1] + b"?", np.uint8))


def test_any_cut_is_refused(good: bytes) -> None:
    for size in [*range(0, 200), *range(200, len(good), 997), len(good) - 1]:
        with pytest.raises(Declined, match="its model file is refused"):
            opened(good[:size])
    with pytest.raises(Declined, match="longer than it should be"):
        opened(good + bytes(64))


@pytest.mark.parametrize("field", FIELDS)
def test_a_wrong_description_is_refused(good: bytes, field: str) -> None:
    at = 64 + 4 * FIELDS.index(field)
    was = int.from_bytes(good[at : at + 4], "little")
    for value in {2**32 - 1, 2**31, 65552, {"outputs": 65, "first_position": 40}.get(field, was * 2 + 16)}:
        if field == "pad":  # has no meaning here
            opened(changed(good, at, value))
            continue
        with pytest.raises(Declined, match="its model file is refused"):
            opened(changed(good, at, value))


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {"unit": 1}),  # of a classifier
        ({"labels": 0, "reads": "all"}, {"unit": 1}),
        ({"labels": 0, "reads": "mean", "unit": True}, {"unit": 2}),
        ({"labels": 0, "reads": "mean", "unit": True}, {"reads": 2}),
        ({"labels": 0, "reads": "mean"}, {"outputs": 31}),  # of a width of 32
        ({"labels": 0, "reads": "mean"}, {"outputs": 33}),
        ({"labels": 0, "reads": "all"}, {"reads": 3}),
    ],
)
def test_heads_that_cannot_be_are_refused(options: dict[str, Any], changes: dict[str, int]) -> None:
    data = file.pack(network(**options))
    opened(data)
    for field, value in changes.items():
        with pytest.raises(Declined, match="its head"):
            opened(changed(data, 64 + 4 * FIELDS.index(field), value))


def test_numbers_that_are_none_are_refused(good: bytes) -> None:
    for bits in (0x7F800000, 0xFF800000, 0x7FC00000):
        with pytest.raises(Declined, match="finite"):
            opened(changed(good, 128, bits))
    with pytest.raises(Declined, match="epsilon"):
        opened(changed(good, 128, 0))


def test_blocks_outside_of_their_matrix_are_refused(good: bytes) -> None:
    """Each word of the file in turn becomes enormous: what is an index, a count or a size is refused, the rest runs."""
    refusals = set()
    ids = [np.arange(30)]
    for at in range(192, len(good), 4):
        value = int.from_bytes(good[at : at + 4], "little")
        if value > 300 or at % 28:  # indices and counts are small; every seventh will do
            continue
        try:
            opened(changed(good, at, 2**31 + 7)).run(ids)
        except Declined as refused:
            refusals.add(str(refused).partition(": ")[2])
    assert {"a block lies outside of its matrix", "blocks are miscounted"} <= refusals


@pytest.mark.parametrize("content", [b"", b"BANTAM", b"BANTAM\n\0\x01" + bytes(200), bytes(4096)])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(Declined, match="refused"):
        opened(content)


def test_a_file_must_lie_where_vectors_can_be_read(good: bytes) -> None:
    room = np.zeros(len(good) + 128, np.uint8)
    start = -room.ctypes.data % 64 + 16
    room[start : start + len(good)] = np.frombuffer(good, np.uint8)
    with pytest.raises(Declined, match="multiple of 64"):
        Compiled(room[start : start + len(good)])


@pytest.mark.slow
def test_sanitizers_find_nothing_in_changed_files(tmp_path: Path) -> None:
    """Address and undefined-behaviour sanitizers watch 2,000 files changed at random, on every path."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no compiler")
    flags = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer".split()
    units = build.COMMON | build.X86
    objects = []
    for name, (source, own) in units.items():
        path = Path(__file__).with_name("fuzz.c") if name == "engine" else build.SOURCE / source
        objects.append(str(tmp_path / f"{name}.o"))
        command = [compiler, *build.FLAGS, *flags, *own, f"-I{build.SOURCE}", "-c", str(path), "-o", objects[-1]]
        subprocess.run(command, check=True, timeout=600)
    fuzz = tmp_path / "fuzz"
    subprocess.run([compiler, *flags, *objects, "-o", str(fuzz), "-lm"], check=True, timeout=600)
    seeds = []
    for at, options in enumerate(SEEDS):
        seeds.append(tmp_path / f"{at}.bantam")
        seeds[-1].write_bytes(file.pack(network(**options)))  # type: ignore[arg-type]
    done = subprocess.run([fuzz, "1", "2000", *seeds], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout, file=sys.stderr)
    refused, accepted, runs, parts = (int(word) for word in done.stdout.split() if word.isdigit())
    assert refused > 500 and accepted > 100 and runs > 300 and parts > 1000, done.stdout


SEEDS = [
    {},
    {"width": 40, "size": 20, "heads": (2, 0), "neurons": (33, 0), "step": 0.02},
    {"width": 64, "neurons": (128, 64), "sparse": "16x4@0.8", "positions": 120},
    {"width": 64, "neurons": (112, 64), "sparse": "16x4@0.6", "step": 0.02, "positions": 80},
    {"width": 64, "neurons": (128, 64), "sparse": "4x1@0.8", "first_position": 2, "pad": 1, "types": 1},
    {"width": 64, "neurons": (64, 16), "sparse": "4x4@0.9", "activation": "relu", "labels": 17},
    {"labels": 0, "reads": "mean", "unit": True},
    {"width": 40, "size": 20, "labels": 0, "reads": "all"},
    {"reads": "all", "step": 0.02},
    {"reads": "mean", "positions": 120},
]
