"""Matsubara et al. 2022: one body, several heads, a teacher for each."""

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig, ElectraConfig

from compress import evaluate, models
from compress.catalogue import TECHNIQUES, techniques
from compress.distil.cerberus import CerberusDistillation, heads_loss
from compress.distil.ensemble import averaged
from compress.export.onnx import to_onnx
from compress.pipeline import compress, walk_through
from compress.recipe import Choice, Recipe, StageRecipe, TrainRecipe
from compress.stage import Material, run_stage, set_dropout
from compress.students.cerberus import Cerberus, CerberusNetwork, Heads
from compress.technique import Run
from compress.train import train
from serve import artefact
from serve.app import create_app
from serve.engines import onnxruntime
from serve.errors import BantamError
from serve.runtime import Session, softmax
from serve.settings import Settings
from tests.compress.conftest import MAX_LENGTH, tiny_bert
from tests.compress.families import FAMILIES, texts, tiny
from tests.compress.toy import examples
from tests.serve.test_app import ask, collector  # noqa: F401  a warm app changes its process


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


ELECTRA = ElectraConfig(embedding_size=768, hidden_size=768, num_attention_heads=12, intermediate_size=3072)
MINILM = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


@pytest.mark.parametrize(
    ("config", "shared", "plain", "heads", "expected"),
    [
        (ELECTRA, 11, 109_483_778, 3, 124_843_782),  # B11 3H1
        (ELECTRA, 11, 109_483_778, 4, 124_843_782 + 7_680_002),
        (ELECTRA, 11, 109_483_778, 1, 109_483_778),
        (MINILM, 5, 22_713_986, 3, 26_560_134),  # B5 3H1
    ],
)
def test_parameters_are_the_papers_count(config: Any, shared: int, plain: int, heads: int, expected: int) -> None:
    """By hand, of embeddings, layers of 7,087,872 and heads of 592,130."""
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
        assert parameters(model) == plain
        assert parameters(Cerberus(shared=shared, heads=heads).build(model)) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_heads_answer_as_the_model_that_they_are_copies_of(family: str) -> None:
    model, batch = tiny(family), texts()
    with torch.no_grad():
        expected = model(**batch).logits.softmax(-1)
        for shared, heads in itertools.product(range(3), (1, 2, 3)):
            output = Cerberus(shared=shared, heads=heads).build(model).eval()(**batch)
            assert output.heads.shape == (heads, 4, 2)
            assert all(torch.equal(head, output.heads[0]) for head in output.heads)
            assert torch.allclose(output.logits.exp(), expected, atol=1e-6)
        assert torch.equal(model(**batch).logits.softmax(-1), expected)  # left as it was


def test_padding_changes_no_answer(batch: dict[str, Tensor], student: Any) -> None:
    """Heads get the mask that the body got."""
    network = taught_apart(Cerberus(shared=1, heads=2).build(student)).eval()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        together = network(**inputs).heads
        for row, length in enumerate(batch["attention_mask"].sum(1)):
            alone = network(**{name: value[row : row + 1, :length] for name, value in inputs.items()}).heads
            assert torch.allclose(together[:, row], alone[:, 0], atol=1e-5)


def taught_apart(network: CerberusNetwork) -> CerberusNetwork:
    """Other weights for each head."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Heads):
                for weight in module.parameters():
                    weight.add_(0.3 * torch.randn_like(weight))
    return network


def test_answers_are_the_mean_of_probabilities(batch: dict[str, Tensor], student: Any) -> None:
    network = taught_apart(Cerberus(heads=3).build(student)).eval()
    with torch.no_grad():
        output = network(batch["input_ids"], batch["attention_mask"])
    probabilities = output.heads.softmax(-1)
    assert probabilities.std(0).max() > 0.05
    assert torch.allclose(output.logits.exp(), probabilities.mean(0), atol=1e-6)
    assert torch.allclose(output.logits.softmax(-1), probabilities.mean(0), atol=1e-6)
    nll = F.nll_loss(output.logits, batch["labels"], reduction="none")
    each = [F.cross_entropy(head, batch["labels"], reduction="none") for head in output.heads]
    assert (nll <= torch.stack(each).mean(0) + 1e-6).all()  # Jensen


def test_the_answer_stays_finite_where_all_heads_are_sure() -> None:
    sure = torch.tensor([[[200.0, 0.0]], [[300.0, -100.0]]])
    assert averaged(sure).isfinite().all()


# The loss


def test_the_loss_of_two_heads_worked_out_by_hand() -> None:
    """T^2 KL of (2, 0) and (0, 0) at T = 2 is 0.443776; the second teacher says what its head says."""
    heads, teachers = torch.zeros(2, 1, 2), torch.tensor([[[2.0, 0.0]], [[5.0, 5.0]]])
    found = heads_loss(heads, teachers, torch.tensor([1]), 2.0, 0.25)
    assert found.item() == pytest.approx(0.75 * (0.443776 + 0) / 2 + 0.25 * np.log(2), abs=1e-6)
    unlabelled = heads_loss(heads, teachers, torch.tensor([-100]), 2.0, 0.25)
    assert unlabelled.item() == pytest.approx(0.75 * 0.443776 / 2, abs=1e-6)


def test_the_loss_of_scores_is_their_squared_distance() -> None:
    heads, teachers = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[[3.0]], [[2.0]]])
    assert heads_loss(heads, teachers, torch.tensor([2.0]), 2.0, 0.5).item() == pytest.approx((4 / 2 + 1 / 2) / 2)
    assert averaged(heads).item() == 1.5


def test_a_head_learns_from_its_own_teacher_alone(batch: dict[str, Tensor], student: Any) -> None:
    def gradients(teachers: Tensor) -> list[Tensor]:
        network = Cerberus(heads=2).build(student).eval()
        output = network(batch["input_ids"], batch["attention_mask"])
        heads_loss(output.heads, teachers, batch["labels"], 2.0, 0.5).backward()
        copies = [m.copies for m in network.modules() if isinstance(m, Heads)]
        return [torch.cat([p.grad.flatten() for one in copies for p in one[at].parameters()]) for at in range(2)]

    torch.manual_seed(0)
    first, second = torch.randn(2, 4, 2), torch.randn(2, 4, 2)
    one, other = gradients(first), gradients(torch.stack([first[0], second[1]]))
    assert torch.equal(one[0], other[0]) and one[0].abs().max() > 0
    assert not torch.equal(one[1], other[1])


# Training


def trained(model: Any, teachers: list[Any], choice: Choice, folder: Path, **options: Any) -> Any:
    data = examples()
    known = [torch.from_numpy(evaluate.logits(one.eval(), data)) for one in teachers]
    asked: list[Callable[[], Tensor]] = [lambda one=one: one for one in known]
    torch.manual_seed(0)
    run = Run(model, techniques((choice,)), steps=12, teacher=teachers[0], others=len(teachers) - 1)
    recipe = TrainRecipe(**{"lr": 1e-3, "evaluations": 1, "precision": "fp32"} | options)
    given: dict[str, Any] = {"teacher_logits": asked[0], "others_logits": asked[1:]}
    train(run, data, recipe, folder=folder, evaluate=lambda _: 0.0, title="", **given)
    assert run.cost["teacher"] == len(teachers) * len(known[0])
    return run.model


def weights(model: torch.nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_one_head_learns_as_distil_logits_does(student: Any, teacher: Any, tmp_path: Path) -> None:
    plain = trained(
        copy.deepcopy(student), [teacher], Choice(use="distil/logits", soft_weight=0.75, temperature=3), tmp_path / "a"
    )
    one = Cerberus(heads=1).build(student)
    choice = Choice(use="distil/cerberus", hard_weight=0.25, temperature=3)
    network = trained(one, [teacher], choice, tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(weights(network), weights(plain), strict=True))
    assert not torch.equal(weights(plain)[0], weights(student)[0])


def test_equal_teachers_leave_heads_equal_and_others_do_not(student: Any, teacher: Any, tmp_path: Path) -> None:
    def spread_of(teachers: list[Any], folder: Path) -> float:
        network = set_dropout(Cerberus(heads=3).build(student), 0.0)
        begun = weights(network)
        network = trained(network, teachers, Choice(use="distil/cerberus"), folder)
        assert not torch.equal(weights(network)[0], begun[0])
        copies = [m.copies for m in network.modules() if isinstance(m, Heads)]
        flat = [torch.cat([p.detach().flatten() for one in copies for p in one[at].parameters()]) for at in range(3)]
        return float((torch.stack(flat).amax(0) - torch.stack(flat).amin(0)).max())

    another = [tiny_bert(layers=2, width=16, seed=seed) for seed in (7, 8)]
    assert spread_of([teacher] * 3, tmp_path / "equal") == 0
    assert spread_of([teacher, *another], tmp_path / "others") > 1e-3


def test_a_stage_is_read_back_and_goes_on_from_its_checkpoint(student: Any, teacher: Any, tmp_path: Path) -> None:
    data, accelerator = examples(), Accelerator(cpu=True)
    known = torch.from_numpy(evaluate.logits(teacher, data))
    material = Material(data, lambda _: 0.0, "classification", teacher, lambda: known, (lambda: known.flip(1),))

    class Stopped(Exception):
        pass

    def stage(folder: Path, *, stop: bool = False) -> Any:
        chosen = techniques((Choice(use="distil/cerberus"),))
        if stop:
            cerberus: Any = chosen["distil/cerberus"]
            loss = cerberus.loss

            def until(step: Any) -> Tensor:
                if step.run.step == 5:
                    raise Stopped
                return loss(step)

            cerberus.loss = until
        network = Cerberus(heads=2).build(copy.deepcopy(student))
        recipe = TrainRecipe(lr=1e-3, epochs=2, evaluations=1, checkpoint=2, precision="fp32")
        return run_stage(network, chosen, recipe, lambda: material, accelerator, folder=folder, seed=0, title="")[0]

    whole = stage(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(stage(tmp_path / "whole")), strict=True))
    with pytest.raises(Stopped):
        stage(tmp_path / "stopped", stop=True)
    again = stage(tmp_path / "stopped")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


# What cannot be


@pytest.mark.parametrize("fields", [{"shared": 4}, {"shared": -1}, {"layers": 2, "shared": 2}])
def test_a_body_deeper_than_the_model_is_refused(fields: dict[str, Any], teacher: Any) -> None:
    with pytest.raises(ValueError, match=r"shared must be 0 to \d, so .*got"):
        Cerberus(**fields).build(teacher)


def test_it_needs_a_head_and_layers_that_there_are(teacher: Any) -> None:
    with pytest.raises(ValueError, match="heads must be 1 or more, got 0"):
        Cerberus(heads=0).build(teacher)
    with pytest.raises(ValueError, match="keeps 1 to 4 layers"):
        Cerberus(layers=5).build(teacher)


@pytest.mark.parametrize(("heads", "others"), [(3, 1), (2, 2), (3, 0)])
def test_heads_and_teachers_must_be_as_many(heads: int, others: int, student: Any, teacher: Any) -> None:
    network = Cerberus(heads=heads).build(student)
    with pytest.raises(ValueError, match=f"{heads} heads meet {others + 1} teachers"):
        CerberusDistillation().prepare(Run(network, {}, 1, teacher=teacher, others=others))


def test_a_student_without_heads_has_one(student: Any, teacher: Any) -> None:
    CerberusDistillation().prepare(Run(student, {}, 1, teacher=teacher))
    with pytest.raises(ValueError, match="1 heads meet 2 teachers"):
        CerberusDistillation().prepare(Run(student, {}, 1, teacher=teacher, others=1))


USABLE = {
    "distil/cerberus",
    "distil/continuation",
    "distil/ensemble",
    "distil/logits",
    "prune/rewind",
    "regularise/alrs",
    "regularise/delta-sam",
    "regularise/sam",
    "regularise/swa",
    "supervised",
}


@pytest.mark.parametrize("name", sorted(TECHNIQUES))
def test_every_technique_works_on_it_or_says_why_not(name: str, student: Any, teacher: Any) -> None:
    network = Cerberus(heads=1).build(student)
    stage = StageRecipe.model_validate({"techniques": [name]})
    if name in USABLE:
        walk_through(network, teacher, [stage], "classification", Accelerator(cpu=True))
        return
    with pytest.raises(ValueError, match=r"\w"):
        walk_through(network, teacher, [stage], "classification", Accelerator(cpu=True))


@pytest.mark.parametrize("name", sorted(name for name in USABLE if name.startswith("regularise/")))
def test_regularisation_trains_every_head(name: str, student: Any, teacher: Any, tmp_path: Path) -> None:
    network = Cerberus(shared=1, heads=2).build(student)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    chosen = (Choice(use="supervised"), Choice(use=name))
    run = Run(network, techniques(chosen), steps=6, teacher=teacher)
    recipe = TrainRecipe(lr=1e-3, evaluations=1, precision="fp32")
    train(run, examples(), recipe, folder=tmp_path, evaluate=lambda _: 0.0, title="")
    after = run.model.state_dict()
    same = {key for key, value in after.items() if torch.equal(value, before[key])}
    assert not {key for key in same if not key.endswith("key.bias")}  # softmax ignores it
    assert all(torch.isfinite(value).all() for value in after.values())


# Files


@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
def test_the_exported_file_answers_at_every_batch_and_length(family: str, tmp_path: Path) -> None:
    network = taught_apart(Cerberus(shared=1, heads=3).build(tiny(family))).eval()
    inputs = ("input_ids", "attention_mask")
    run = onnxruntime(to_onnx(network, tmp_path / "model.onnx", inputs=inputs), device="cpu", threads=1)
    generator = torch.Generator().manual_seed(1)
    for size, length in ((1, 3), (2, 16), (5, 20)):
        ids = torch.randint(5, 64, (size, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1:, length - 1 :] = 0
        with torch.no_grad():
            expected = network(ids, mask).logits.numpy()
        found = run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.fixture(scope="module")
def made(
    questions: Path, toy_settings: list[str], others: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The recipe that comes along at toy size: two more teachers, one with a vocabulary of its own."""
    folder = tmp_path_factory.mktemp("cerberus")
    mine = [
        f"task.dataset={questions}",
        "task.text=[question, answer]",
        f"teachers={json.dumps(others)}",
        "student.shared=1",
        "stages.0.epochs=4",
        "stages.0.lr=0.003",
        "stages.0.evaluations=2",
        "export.int8=[static]",
        "export.max_drop=1",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANTAM_CACHE", str(folder / "cache"))
        compress(Recipe.read("cerberus", [*toy_settings, *mine]), folder / "student")
    return folder / "student"


PAIRS = [("is it the film", "a fine moving film"), ("what had the plot", "dull flat"), ("music", "so lovely and warm")]


def test_a_recipe_makes_one_model_that_ranks(made: Path) -> None:
    manifest = artefact.load(made).manifest
    assert (manifest.task.metric, manifest.task.inputs, set(manifest.models)) == ("map", 2, {"fp32", "int8"})
    assert manifest.metrics["test"]["teacher"]["value"] > 0.8
    assert manifest.metrics["test"]["torch"]["value"] > 0.8
    int8 = next(row for row in manifest.candidates if row["name"] == "static")
    assert int8["refused"] is None and int8["float_kernels"] == 0
    # 1 block of 6 products in the body; 6, pooler and classifier in each of 3 heads
    assert int8["integer_kernels"] == 6 + 3 * 8
    keys = [manifest.teacher["key"], *(one["key"] for one in manifest.teacher["others"])]
    assert len(set(keys)) == 3 and len(manifest.provenance["cost"]) == 4
    assert all(one["metrics"]["test"]["teacher"]["value"] > 0.6 for one in manifest.teacher["others"])


def test_torch_and_onnx_and_the_service_say_the_same(made: Path) -> None:
    loaded = artefact.load(made).manifest
    network, tokenizer = models.load(str(made), loaded.task.labels, MAX_LENGTH)
    with torch.no_grad():
        expected = torch.cat([network(**tokenizer(*pair, return_tensors="pt")).logits for pair in PAIRS]).numpy()
    assert np.allclose(Session(made, model="fp32").logits(PAIRS), expected, atol=1e-4)
    served = Session(made, model=loaded.served).logits(PAIRS)
    assert np.allclose(softmax(served), softmax(expected), atol=0.1)
    app = create_app(Settings(artefact=str(made)))
    app.warm_up()
    status, _, body = ask(app, {"inputs": [list(pair) for pair in PAIRS]})
    assert status == 200
    for answer, row in zip(json.loads(body), softmax(served), strict=True):
        told = {entry["label"]: entry["score"] for entry in answer}
        assert [told[label] for label in loaded.task.labels] == pytest.approx(row.tolist(), abs=1e-4)


def test_our_engine_declines_and_another_runtime_answers(made: Path) -> None:
    with pytest.raises(BantamError, match="'cerberus'"):
        Session(made, model="int8", runtime="bantam")
    session = Session(made, model="int8", runtime="auto")
    assert session.runtime != "bantam" and "'cerberus'" in session.choice.declined["bantam"]


def test_a_saved_one_comes_back_bit_for_bit(student: Any, toy: Path, tmp_path: Path) -> None:
    network = taught_apart(Cerberus(shared=0, heads=2).build(student))
    network.save_pretrained(tmp_path)
    _, tokenizer = models.load(str(toy / "encoder"), ("a", "b"), MAX_LENGTH)
    tokenizer.save_pretrained(tmp_path)
    again, _ = models.load(str(tmp_path), ("LABEL_0", "LABEL_1"), MAX_LENGTH)
    expected, found = network.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    with pytest.raises(ValueError, match=r"all for the labels \['LABEL_0', 'LABEL_1'\]; the task has \['a', 'b'\]"):
        models.load(str(tmp_path), ("a", "b"), MAX_LENGTH)
    with pytest.raises(ValueError, match="positions for 16"):
        models.load(str(tmp_path), ("LABEL_0", "LABEL_1"), 17)
