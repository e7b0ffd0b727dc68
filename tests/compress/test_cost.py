"""What a stage counts: examples through the student, through the teacher, and backwards; a stop loses none."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from compress.catalogue import techniques
from compress.recipe import Choice, StageRecipe
from compress.stage import Material, run_stage
from tests.compress.conftest import tiny_bert
from tests.compress.toy import examples

EXAMPLES = 48  # six updates of eight


def cost(folder: Path, technique: str, *, score: Any = lambda model: 1.0, cached: bool = False) -> dict[str, Any]:
    chosen = (Choice(use=technique),)
    options = StageRecipe(
        techniques=chosen, epochs=2, batch_size=8, evaluations=3, checkpoint=4, keep="last", precision="fp32"
    )
    teacher = tiny_bert(layers=2, width=16, seed=1).eval()
    known = torch.zeros(EXAMPLES, 2)
    material = Material(examples(EXAMPLES), score, teacher=teacher, teacher_logits=(lambda: known) if cached else None)
    model = tiny_bert(layers=2, width=16, seed=2)
    _, content = run_stage(
        model,
        techniques(chosen),
        options,
        lambda: material,
        Accelerator(cpu=True),
        folder=folder,
        seed=0,
        title="stage",
    )
    return dict(content["cost"])


@pytest.mark.parametrize(
    ("technique", "cached", "teacher"),
    [("supervised", False, 0), ("distil/logits", False, 2 * EXAMPLES), ("distil/logits", True, EXAMPLES)],
)
def test_every_example_is_counted(technique: str, cached: bool, teacher: int, tmp_path: Path) -> None:
    """Two epochs forwards and backwards; the teacher in both, or once for its logits. Evaluations cost only time."""
    found = cost(tmp_path, technique, cached=cached)
    assert found.pop("seconds") > 0
    assert found == {
        "stage": "stage",
        "updates": 12,
        "student": 2 * EXAMPLES,
        "backward": 2 * EXAMPLES,
        "teacher": teacher,
    }


def test_a_stop_changes_no_count(tmp_path: Path) -> None:
    whole = cost(tmp_path / "whole", "distil/logits", cached=True)

    def stopped(model: Any) -> float:
        signal.raise_signal(signal.SIGINT)
        return 1.0

    with pytest.raises(KeyboardInterrupt, match="4 of 12 updates are saved"):
        cost(tmp_path / "parts", "distil/logits", cached=True, score=stopped)
    parts = cost(tmp_path / "parts", "distil/logits", cached=True)
    assert {**parts, "seconds": 0} == {**whole, "seconds": 0}
