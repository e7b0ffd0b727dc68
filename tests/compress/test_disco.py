"""DisCo against closed forms: what InfoNCE gives, what the queue holds, and what learns."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compress import checkpoint
from compress.catalogue import techniques
from compress.distil.disco import DisCo, Memory, contrastive_loss
from compress.embedder import Embedder
from compress.recipe import Choice, TrainRecipe
from compress.technique import Run, Step
from compress.train import adamw, train
from tests.compress.conftest import tiny_bert
from tests.compress.toy import examples


def embedder(*, layers: int = 2, width: int = 16, seed: int = 2) -> Embedder:
    return Embedder(tiny_bert(layers=layers, width=width, seed=seed).bert, pooling="mean", normalised=True)


def begun(technique: DisCo, student: Embedder, teacher: Embedder) -> Run:
    run = Run(student.eval(), {"it": technique}, steps=10, kind="embedding", teacher=teacher.eval(), rows=4)
    run.prepare()
    return run


def vectors(count: int = 6, width: int = 5, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("count", [3, 50])
def test_among_equal_keys_the_loss_is_chance(count: int) -> None:
    keys = vectors(1).expand(count, -1)
    assert contrastive_loss(vectors(3, seed=1), keys, 7.0).item() == pytest.approx(math.log(count), rel=1e-6)


@pytest.mark.parametrize(("scale", "expected"), [(math.e, 1.640403), (20.0, 1.3e-7)])
def test_a_student_that_is_its_teacher_among_orthogonal_keys(scale: float, expected: float) -> None:
    """ln(1 + (B + K - 1) exp(-scale)) for B + K = 64."""
    keys = torch.eye(64)
    found = contrastive_loss(keys[:8], keys, scale).item()
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert found == pytest.approx(math.log(1 + 63 * math.exp(-scale)), abs=1e-7)


def test_the_loss_is_that_of_torch_in_a_batch() -> None:
    """K = 0: InfoNCE of the batch, whatever its order and the lengths of the student's vectors."""
    student, keys = torch.randn(6, 5, generator=torch.Generator().manual_seed(3)), vectors()
    cosines = torch.stack([F.cosine_similarity(row[None], keys) for row in student])
    expected = -torch.stack([(4 * row).log_softmax(0)[i] for i, row in enumerate(cosines)]).mean().item()
    assert contrastive_loss(student, keys, 4.0).item() == pytest.approx(expected, rel=1e-5)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    assert contrastive_loss(7 * student[order], keys[order], 4.0).item() == pytest.approx(expected, rel=1e-5)


def test_only_the_student_and_the_scale_have_a_gradient() -> None:
    student, keys = vectors(4).requires_grad_(), vectors(9, seed=1).requires_grad_()
    scale = torch.tensor(3.0, requires_grad=True)
    contrastive_loss(student, keys, scale).backward()
    assert keys.grad is None and student.grad.any() and scale.grad


def test_one_text_and_no_queue_teach_nothing() -> None:
    student = vectors(1).requires_grad_()
    loss = contrastive_loss(student, vectors(1, seed=1), 9.0)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()


@pytest.mark.parametrize("size", [0, 3, 7, 12, 40])
def test_the_queue_holds_the_latest_vectors_first(size: int) -> None:
    memory = Memory(5, 5, size, 1.0)
    given = [3 * vectors(4, seed=n) for n in range(6)]
    for number, batch in enumerate(given, start=1):
        keys = memory.keys(batch)
        memory.remember(keys)
        length = min(4 * number, size)
        assert int(memory.filled) == length
        expected = torch.cat([*reversed(given[:number])])[:length] / 3
        assert torch.allclose(memory.queue[:length], expected, atol=1e-6)
        assert torch.allclose(memory.queue[:length].norm(dim=-1), torch.ones(length))
    assert len(keys) == 4 + min(20, size)


def test_the_term_is_that_of_its_parts(batch: Any) -> None:
    """Second batch: the teacher's vectors of the first stand behind its own; oracle: the loss over both, by hand."""
    student, teacher = embedder(), embedder(layers=4, seed=1)
    technique = DisCo(queue=6, mse=0.5, weight=2.0)
    run = begun(technique, student, teacher)
    other = {**batch, "input_ids": batch["input_ids"].flip(1)}
    for one in (other, batch):
        loss = technique.loss(Step(run, one))
    inputs = [{k: one[k] for k in ("input_ids", "attention_mask")} for one in (batch, other)]
    with torch.no_grad():
        mine, own, past = student(**inputs[0]).logits, teacher(**inputs[0]).logits, teacher(**inputs[1]).logits
    scores = math.e * mine @ torch.cat([own, past]).T
    expected = F.cross_entropy(scores, torch.arange(4)) + 0.5 * (mine - own).pow(2).mean()
    assert loss.item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_the_projection_has_the_papers_size_and_is_dropped(batch: Any) -> None:
    assert sum(p.numel() for p in Memory(768, 1024, 0, 1.0).project.parameters()) == 787_456
    run = begun(DisCo(queue=8), embedder(width=8), embedder(layers=4, seed=1))
    assert run.techniques["it"].memory.project.weight.shape == (16, 8)
    names = {name for name, _ in run.model.named_parameters()} | set(run.model.state_dict())
    assert not [name for name in names if "project" in name or "queue" in name or name.endswith(".s")]


def test_the_scale_is_trained_and_bounded() -> None:
    run = begun(DisCo(), embedder(), embedder(layers=4, seed=1))
    memory = run.techniques["it"].memory
    assert any(p is memory.s for group in adamw(run, TrainRecipe()).param_groups for p in group["params"])
    memory.s.data.fill_(50.0)
    assert memory.scale == 100


def test_a_student_learns_to_find_its_teachers_vectors(tmp_path: Path) -> None:
    student, teacher = embedder(width=8), embedder(layers=4, seed=1).eval().requires_grad_(False)
    run = Run(
        student, techniques((Choice(use="distil/disco", queue=16, s=2.0),)), 60, kind="embedding", teacher=teacher
    )
    data = examples(together=2)
    first = begun(DisCo(queue=0, s=2.0), copy.deepcopy(student), teacher)
    before = first.techniques["it"].loss(Step(first, data.update(0)[0])).item()
    recipe = TrainRecipe(lr=2e-2, evaluations=1, precision="fp32")
    train(run, data, recipe, folder=tmp_path, evaluate=lambda _: 0.0, title="")
    memory = run.owned[0]
    assert memory.s.item() != 2 and int(memory.filled) == 16
    with torch.no_grad():
        batch = data.update(0)[0]
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
        after = contrastive_loss(memory.project(run.model(**inputs).logits), teacher(**inputs).logits, math.e**2)
    assert after.item() < 0.8 * before


def test_the_queue_rides_in_the_checkpoint(tmp_path: Path) -> None:
    runs = [begun(DisCo(queue=5), embedder(), embedder(layers=4, seed=1)) for _ in range(2)]
    for run in runs:
        run.optimizer = adamw(run, TrainRecipe())
    memory = runs[0].owned[0]
    memory.remember(vectors(4, 16))
    checkpoint.save(runs[0], tmp_path / "checkpoint.pt")
    checkpoint.load(runs[1], tmp_path / "checkpoint.pt")
    assert torch.equal(runs[1].owned[0].keys(vectors(1, 16, seed=5)), memory.keys(vectors(1, 16, seed=5)))
    assert int(runs[1].owned[0].filled) == 4


@pytest.mark.parametrize("fields", [{"queue": -1}, {"s": 5.0}, {"s": math.nan}])
def test_bad_input_is_one_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="distil/disco: queue must be 0 or more and s at most 4.605"):
        begun(DisCo(**fields), embedder(), embedder(layers=4, seed=1))
