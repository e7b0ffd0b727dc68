"""A checkpoint is whole or not there, and gives back every generator's state."""

import errno
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress import checkpoint


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos")])
def test_a_full_disk_keeps_the_older_checkpoint(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.write(path, {"step": 1})

    def full(content: Any, file: Any) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"could not be written .* run with --resume"):
        checkpoint.write(path, {"step": 2})
    assert checkpoint.read(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.write(path, {"step": 1})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged .*; delete it"):
        checkpoint.read(path)


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    draws()
    checkpoint.write(tmp_path / "c.pt", checkpoint.randomness())
    expected = draws()
    checkpoint.restore_randomness(checkpoint.read(tmp_path / "c.pt"))
    assert draws() == expected
