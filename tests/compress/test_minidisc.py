"""MiniDisc against counts of its card, masks made by hand, and plain distillation of a student that was cut first."""

import copy
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from compress import pipeline
from compress.anatomy import blocks, part
from compress.catalogue import techniques
from compress.distil.minidisc import FIELD, MiniDisc, answer_loss, choose, compared, states_loss
from compress.narrow import narrowed
from compress.nested import dropped, in_eights, kept_heads, kept_neurons, levels, standing
from compress.pipeline import compress
from compress.recipe import Choice, Recipe, TrainRecipe
from compress.technique import Run, Step, Technique
from compress.train import train
from compress.weights import linears
from compress.widths import Keep, full, shrink, widths
from tests.compress.conftest import tiny_bert
from tests.compress.families import FAMILIES, texts, tiny
from tests.compress.toy import examples

GRID = (10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95)
EMPTY = [Keep((), (1, 5, 7)), Keep((1, 3), ()), Keep((), ())]
SOME = [Keep((0, 2), (0, 3, 4, 20)), Keep((1, 2, 3), (23,)), Keep((3,), tuple(range(24)))]


def random_importance(blocks: int, units: int) -> Tensor:
    return torch.rand(blocks, units, generator=torch.Generator().manual_seed(blocks * units))


def random_map(blocks: int, heads: int, neurons: int) -> dict[int, list[Keep]]:
    scores = random_importance(blocks, heads), random_importance(blocks, neurons)
    found = [
        levels(rows, {s: kept(rows, s) for s in GRID})
        for rows, kept in zip(scores, (kept_heads, kept_neurons), strict=True)
    ]
    return {s: standing(*found, s) for s in GRID}


# which units stand at which sparsity


def test_kept_units_of_bert_base_at_90_percent() -> None:
    assert 144 - sum(dropped(random_importance(12, 12), 90)) == 14
    assert sum(dropped(random_importance(12, 3072), 90)) == 33178
    assert 36864 - 33178 == 3686


@pytest.mark.parametrize(("gone", "kept"), [(0, 64), (3, 64), (5, 56), (13, 48), (58, 8), (59, 8), (61, 0), (64, 0)])
def test_neurons_stay_in_eights(gone: int, kept: int) -> None:
    assert in_eights(64, gone) == kept


def test_a_block_of_an_odd_width_never_keeps_less_than_nothing() -> None:
    assert in_eights(12, 12) == 0 and in_eights(12, 8) == 0 and in_eights(12, 0) == 12


def test_the_least_important_of_all_blocks_go_first() -> None:
    """Planted: the second block's units matter less than all of the first, which therefore stays whole at 50 %."""
    scores = torch.stack([torch.arange(8) + 100.0, torch.arange(8) + 1.0])
    assert dropped(scores, 50) == [0, 8]
    assert dropped(scores, 70) == [3, 8]
    found = levels(scores, {50: [8, 0], 70: [5, 0]})
    assert found == [[50, 50, 50, 70, 70, 70, 70, 70], [0] * 8]


def test_what_stands_at_a_sparsity_stands_at_every_lower_one() -> None:
    kept = random_map(blocks=6, heads=12, neurons=96)
    for low, high in itertools.pairwise(GRID):
        for wide, narrow in zip(kept[low], kept[high], strict=True):
            assert set(narrow.heads) <= set(wide.heads) and set(narrow.neurons) <= set(wide.neurons)
    assert sum(len(k.heads) for k in kept[90]) == 72 - round(0.9 * 72)


def test_parameters_fall_as_sparsity_says() -> None:
    """Rounding may move 4 neurons a block and half a head over all."""
    model = tiny_bert(layers=6, width=64, seed=0)
    model.config.num_attention_heads = 8
    whole = type(model)(copy.deepcopy(model.config))
    before = sum(layer.weight.numel() for _, layer in linears(whole))
    slack = (6 * 4 * 2 * 64 + 0.5 * 4 * 64 * 8) / before
    for sparsity, keep in random_map(blocks=6, heads=8, neurons=128).items():
        cut = copy.deepcopy(whole)
        shrink(cut, keep)
        assert abs(sum(layer.weight.numel() for _, layer in linears(cut)) / before - (1 - sparsity / 100)) <= slack


# narrow for the length of a block


def zeroed(model: nn.Module, keep: list[Keep]) -> nn.Module:
    """A copy in which what is not kept has zeros for weights: query, key and value of heads, columns of neurons."""
    model = copy.deepcopy(model)
    for block, kept in enumerate(keep):
        heads, neurons = widths(model)[block]
        for name in ("query", "key", "value"):
            layer = model.get_submodule(part(model, block, name))
            off = torch.tensor([h not in kept.heads for h in range(heads)]).repeat_interleave(len(layer.bias) // heads)
            layer.weight.data[off], layer.bias.data[off] = 0, 0
        off = torch.tensor([n not in kept.neurons for n in range(neurons)])
        model.get_submodule(part(model, block, "ffn_out")).weight.data[:, off] = 0
    return model


@torch.no_grad()
def states(model: nn.Module) -> list[Tensor]:
    output = model(**texts(), output_hidden_states=True)
    return [*output.hidden_states, output.logits]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for mine, its in zip(found, expected, strict=True):
        assert (mine - its).abs().max() < 1e-5


@pytest.mark.parametrize("keep", [SOME, EMPTY])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_slice_is_the_model_with_zeros_and_the_model_cut(family: str, keep: list[Keep]) -> None:
    """Layer by layer, and afterwards everything is as it was."""
    model = tiny(family)
    whole, names = states(model), [*model.state_dict()]
    with narrowed(model, keep):
        found = states(model)
    assert_same(found, states(zeroed(model, keep)))
    assert_same(states(model), whole)
    assert [*model.state_dict()] == names and not any("forward" in vars(m) for m in model.modules())
    shrink(model, keep)
    assert_same(states(model), found)


@pytest.mark.parametrize("family", FAMILIES)
def test_reordered_units_are_the_same_function(family: str) -> None:
    model = tiny(family)
    whole = states(model)
    shuffled = [Keep(tuple(reversed(kept.heads)), (*kept.neurons[5:], *kept.neurons[:5])) for kept in full(model)]
    with narrowed(model, shuffled):
        assert_same(states(model), whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrow_model_can_be_narrower(family: str) -> None:
    model = tiny(family)
    inner = [Keep((), (1,)), Keep((1,), ()), Keep((), ())]
    with narrowed(model, [Keep((), (5,)), Keep((3,), ()), Keep((), ())]):
        expected = states(model)
    shrink(model, EMPTY)
    with narrowed(model, inner):
        assert_same(states(model), expected)


def test_an_empty_block_without_its_bias_is_a_normalisation() -> None:
    """As the released code has it: LayerNorm of the input."""
    model = tiny("bert")
    nothing = [Keep((), ())] * 3
    for cut in (False, True):
        if cut:
            shrink(model, nothing)
        with narrowed(model, nothing, biases=False):
            found = states(model)
        for before, after, block in zip(found, found[1:], blocks(model), strict=False):
            assert torch.allclose(after, block.output.LayerNorm(block.attention.output.LayerNorm(before)), atol=1e-6)


def test_gradients_reach_what_is_used_and_nothing_else() -> None:
    model = tiny("bert")
    with narrowed(model, SOME):
        model(**texts()).logits.sum().backward()
    used = blocks(model)[0].intermediate.dense.weight.grad.abs().sum(1) > 0
    assert used.nonzero().flatten().tolist() == [0, 3, 4, 20]


# the loss and the choice


def test_layers_compared_are_every_sixth_part_and_the_last() -> None:
    assert compared(12, 12) == [(m, m) for m in (0, 2, 4, 6, 8, 10, 12)]
    assert [m for m, _ in compared(6, 6)] == [0, 1, 2, 3, 4, 5, 6]
    assert [m for m, _ in compared(3, 3)] == [0, 1, 2, 3]
    assert [m for m, _ in compared(13, 13)] == [0, 2, 4, 6, 8, 10, 12, 13]
    assert compared(2, 4) == [(0, 0), (1, 2), (2, 4)]


def test_states_are_compared_over_real_tokens() -> None:
    student, teacher = [torch.zeros(1, 3, 4)] * 2, [torch.tensor([1.0, 2.0, 9.0])[None, :, None].expand(1, 3, 4)] * 2
    mask = torch.tensor([[1, 1, 0]])
    assert states_loss(student, teacher, mask, [(0, 0), (1, 1)]).item() == pytest.approx((1 + 4) / 2)


def test_answers_of_a_flat_student_cost_log_two_and_scores_are_squared() -> None:
    assert answer_loss(torch.zeros(4, 2), torch.randn(4, 2)).item() == pytest.approx(math.log(2))
    assert answer_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])).item() == pytest.approx(2.5)


TABLE = {50: 0.92, 60: 0.915, 70: 0.91, 80: 0.889, 90: 0.82, 95: 0.70}


@pytest.mark.parametrize(
    ("trade_off", "expected"), [(0.0, (50, 0.92)), (0.1, (70, 0.98)), (0.2, (70, 1.05)), (0.3, (80, 1.129))]
)
def test_the_assistant_trades_score_for_sparsity(trade_off: float, expected: tuple[int, float]) -> None:
    """By hand; at 0.2 the values are 1.02, 1.035, 1.05, 1.049, 1.00 and 0.89."""
    assert choose(TABLE, trade_off, 90) == (expected[0], pytest.approx(expected[1]))


def test_the_assistant_is_the_target_where_only_sparsity_counts() -> None:
    assert choose(TABLE, 1e6, 90)[0] == 90  # 95 wins, which is beyond
    assert choose(TABLE, math.inf, 90)[0] == 90


# the stage


def twin(*, blocks: int = 3, seed: int = 4) -> tuple[nn.Module, nn.Module]:
    """A student that starts as its teacher: 3 blocks of 2 heads and 32 neurons."""
    teacher = tiny_bert(layers=blocks, width=16, seed=seed).eval().requires_grad_(False)
    return copy.deepcopy(teacher).requires_grad_(True), teacher


def trained(
    student: nn.Module,
    teacher: nn.Module,
    chosen: list[Technique],
    folder: Path,
    *,
    steps: int = 8,
    evaluate: Callable[[Any], float] = lambda _: 0.0,
    **options: Any,
) -> Run:
    torch.manual_seed(0)
    run = Run(student, {str(i): technique for i, technique in enumerate(chosen)}, steps=steps, teacher=teacher)
    recipe = TrainRecipe(**{"lr": 1e-2, "evaluations": 2, "precision": "fp32", "keep": "last"} | options)
    train(run, examples(), recipe, folder=folder, evaluate=evaluate, title="")
    return run


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@dataclass
class PlainDistillation(Technique):
    """The loss written again, for a student that is small already."""

    needs: ClassVar = ("teacher", "hidden_states")

    def loss(self, step: Step) -> Tensor:
        s, t, real = step.student, step.teacher, step.batch["attention_mask"].bool()
        errors = torch.stack([((a - b) ** 2)[real] for a, b in zip(s.hidden_states, t.hidden_states, strict=True)])
        answers = -(t.logits.softmax(-1) * s.logits.log_softmax(-1)).sum(-1)
        return 0.5 * (errors.mean() + answers.mean())


@pytest.mark.parametrize("sparsity", [30, 70])
def test_one_candidate_is_plain_distillation_to_the_pruned_student(sparsity: int, tmp_path: Path) -> None:
    student, teacher = twin()
    cut = copy.deepcopy(student)
    technique = MiniDisc(target=sparsity, candidates=(sparsity,))
    mine = trained(student, teacher, [technique], tmp_path / "minidisc", evaluations=1).model
    shrink(cut, technique.slices[sparsity])
    plain = trained(copy.deepcopy(cut), teacher, [PlainDistillation()], tmp_path / "plain", evaluations=1).model
    assert widths(mine) == widths(plain) != widths(teacher)
    assert torch.allclose(flat(mine), flat(plain), atol=1e-4)
    assert not torch.allclose(flat(mine), flat(cut), atol=1e-2)


def test_the_loss_is_the_mean_over_candidates() -> None:
    """Oracle: models that were cut for real, one by one."""
    student, teacher = twin()
    technique = MiniDisc(target=70, candidates=(30, 50, 70))
    run = Run(student.eval(), {"it": technique, "plain": PlainDistillation()}, steps=1, teacher=teacher)
    data = examples()
    run.sample = lambda _: iter(data.update(0))
    technique.prepare(run)
    (batch,) = data.update(1)
    losses = []
    for keep in technique.slices.values():
        cut = copy.deepcopy(student)
        shrink(cut, keep)
        losses.append(PlainDistillation().loss(Step(Run(cut, run.techniques, steps=1, teacher=teacher), batch)).item())
    assert technique.loss(Step(run, batch)).item() == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_a_head_and_neurons_without_effect_go_first() -> None:
    student, teacher = twin()
    with torch.no_grad():
        student.get_submodule(part(student, 1, "attention_out")).weight[:, 8:] = 0  # head 1 of block 1
        student.get_submodule(part(student, 2, "ffn_out")).weight[:, 3:19] = 0
    technique = MiniDisc(target=20, candidates=(20,))
    run = Run(student, {}, steps=1, teacher=teacher)
    run.sample = lambda _: iter(examples().update(0))
    technique.prepare(run)
    keep = technique.slices[20]
    assert [k.heads for k in keep] == [(0, 1), (0,), (0, 1)]  # round(1.2) of 6
    assert not set(keep[2].neurons) & set(range(3, 19))  # round(19.2) of 96: these 16 and three more


class Scores:
    """Stands for the selection split: scores by the width of the slice that is asked, from a table a step."""

    def __init__(self, table: list[dict[int, float]]) -> None:
        self.table, self.asked, self.weights = table, [], []

    def __call__(self, model: Any) -> float:
        heads = sum(block.attention.self.num_attention_heads for block in blocks(model))
        self.asked.append(heads)
        self.weights.append(flat(model))
        row = self.table[(len(self.asked) - 1) // len(self.table[0])]
        return row[heads]


def test_the_assistant_has_the_weights_of_the_step_that_made_it_win(tmp_path: Path) -> None:
    """At 8 x 2 heads: 25 % leaves 12, 50 % leaves 8. Values at 0.4: step 1: .9, .95; 2: 1.0, .95; 3: .8, .95."""
    student, teacher = twin(blocks=8)
    scores = Scores([{12: 0.8, 8: 0.75}, {12: 0.9, 8: 0.7}, {12: 0.7, 8: 0.75}, {12: 0.85, 8: 0.6}])
    technique = MiniDisc(stage="assistant", target=50, candidates=(25, 50), trade_off=0.4)
    even(technique)
    run = trained(student, teacher, [technique], tmp_path, evaluate=scores, evaluations=4)
    assert scores.asked == [12, 8] * 4
    assert technique.memory.best.tolist() == [0.9, 0.75] and int(technique.memory.sparsity) == 25
    assert sum(heads for heads, _ in widths(run.model)) == 12
    expected = copy.deepcopy(teacher)
    torch.nn.utils.vector_to_parameters(scores.weights[2], expected.parameters())
    shrink(expected, technique.slices[25])
    assert torch.equal(flat(run.model), flat(expected))


def even(technique: MiniDisc) -> None:
    """Rank by position, so that every block loses the same: what a rehearsal does."""
    rank = technique.rank

    def by_position(run: Run) -> Any:
        run.sample = lambda _: iter(())
        return rank(run)

    technique.rank = by_position  # type: ignore[method-assign]


def test_the_student_is_cut_from_its_assistant(tmp_path: Path) -> None:
    student, teacher = twin(blocks=4)
    fields = {"target": 75, "candidates": (25, 50, 75), "trade_off": 0.1}
    scores = Scores([{6: 0.9, 4: 0.95, 2: 0.7}])
    first = MiniDisc(stage="assistant", **fields)
    even(first)
    assistant = trained(student, teacher, [first], tmp_path / "1", evaluate=scores, evaluations=1).model
    assert sum(heads for heads, _ in widths(assistant)) == 4
    told = getattr(assistant.config, FIELD)
    assert told["sparsity"] == 50 and {level for row in told["neurons"] for level in row} == {50, 75}

    second = MiniDisc(stage="student", **fields)
    tutor = copy.deepcopy(assistant).eval().requires_grad_(False)
    run = trained(assistant, tutor, [second], tmp_path / "2", evaluate=lambda _: 0.5)
    assert second.active == [50, 75]
    assert widths(run.model) == [(len(k.heads), len(k.neurons)) for k in first.slices[75]]  # of the original widths
    assert not hasattr(run.model.config, FIELD)


def test_an_assistant_at_the_target_goes_on_alone(tmp_path: Path) -> None:
    student, teacher = twin(blocks=4)
    first = MiniDisc(stage="assistant", target=50, candidates=(25, 50), trade_off=10.0)
    assistant = trained(student, teacher, [first], tmp_path / "1").model
    second = MiniDisc(target=50, candidates=(25, 50))
    before = widths(assistant)
    run = trained(assistant, copy.deepcopy(assistant).requires_grad_(False), [second], tmp_path / "2")
    assert second.active == [50] and widths(run.model) == before


def test_a_score_that_is_no_number_never_wins(tmp_path: Path) -> None:
    student, teacher = twin()
    technique = MiniDisc(stage="assistant", target=50, candidates=(50,))
    trained(student, teacher, [technique], tmp_path, evaluate=lambda _: math.nan)
    assert int(technique.memory.sparsity) == 0


def test_weights_that_are_still_being_pruned_never_win(tmp_path: Path) -> None:
    student, teacher = twin()
    scores = Scores([{4: 0.9}, {4: 0.8}])
    technique = MiniDisc(stage="assistant", target=30, candidates=(30,))
    technique.before_update = lambda run: setattr(run, "settled", 0.6)  # type: ignore[method-assign]
    trained(student, teacher, [technique], tmp_path, evaluate=scores)
    assert technique.memory.best.tolist() == [0.8]


def test_a_negative_score_may_win(tmp_path: Path) -> None:
    """Values start below everything: correlations are negative early on."""
    student, teacher = twin()
    technique = MiniDisc(stage="assistant", target=50, candidates=(50,))
    trained(student, teacher, [technique], tmp_path, evaluate=lambda _: -0.9)
    assert int(technique.memory.sparsity) == 50


def test_a_sampled_update_has_the_widest_the_narrowest_and_two_between() -> None:
    technique = MiniDisc(each_update="sampled")
    technique.active = [50, 60, 70, 80, 85, 90, 95]
    draws = [technique.drawn(step) for step in range(200)]
    assert all(d[0] == 50 and d[-1] == 95 and len(set(d)) == 4 for d in draws)
    assert {s for d in draws for s in d} == set(technique.active)
    assert draws == [technique.drawn(step) for step in range(200)]


def test_the_released_form_drops_the_bias_of_what_is_cut_to_nothing(tmp_path: Path) -> None:
    student, teacher = twin()
    technique = MiniDisc(target=90, candidates=(90,), keep_bias=False)
    run = trained(student, teacher, [technique], tmp_path)
    empty = [i for i, (heads, _) in enumerate(widths(run.model)) if not heads]
    assert empty
    for block in empty:
        assert not run.model.get_submodule(part(run.model, block, "attention_out")).bias.any()


@pytest.mark.parametrize("stop", [3, 5])
def test_a_resumed_run_ends_where_it_would_have(stop: int, tmp_path: Path) -> None:
    """Stopped by a signal between two evaluations, the winner's weights among what is kept."""
    table = [{4: 0.9, 2: 0.8}, {4: 0.7, 2: 0.8}, {4: 0.6, 2: 0.7}, {4: 0.5, 2: 0.4}]
    fields = {"stage": "assistant", "target": 60, "candidates": (30, 60), "trade_off": 0.0}
    found = []
    for interrupted in (False, True):
        folder = tmp_path / str(interrupted)
        student, teacher = twin()
        scores = Scores(table)
        begun = copy.deepcopy(student)
        if interrupted:
            halted = MiniDisc(**fields)
            halted.after_update = lambda run: halt() if run.step == stop else None
            with pytest.raises(KeyboardInterrupt):
                trained(begun, teacher, [halted], folder, evaluate=scores, evaluations=4, checkpoint=1)
            student = copy.deepcopy(student)
        run = trained(student, teacher, [MiniDisc(**fields)], folder, evaluate=scores, evaluations=4, checkpoint=1)
        found.append(run.model)
        assert len(scores.asked) == 8
    assert torch.equal(flat(found[0]), flat(found[1])) and widths(found[0]) == widths(found[1])
    assert getattr(found[0].config, FIELD) == getattr(found[1].config, FIELD)


def halt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": 91}, "target must be among candidates"),
        ({"candidates": (0, 90)}, "between 0 and 100"),
        ({"candidates": (90, 100)}, "between 0 and 100"),
        ({"candidates": ()}, "between 0 and 100"),
        ({"trade_off": -0.1}, "trade_off 0 or more"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    student, teacher = twin()
    (technique,) = techniques((Choice(use="distil/minidisc", **fields),)).values()
    with pytest.raises(ValueError, match=message):
        technique.prepare(Run(student, {}, steps=1, teacher=teacher))


def test_other_widths_are_refused() -> None:
    student, _ = twin()
    with pytest.raises(ValueError, match="student has 16, the teacher 8"):
        MiniDisc().prepare(Run(student, {}, steps=1, teacher=tiny_bert(layers=3, width=8, seed=0)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"candidates": (50, 55, 75)}, "candidates must be among these"),
        ({"candidates": (25, 50, 75), "target": 25}, "target not below"),
    ],
)
def test_a_student_that_does_not_fit_its_assistant_is_refused(fields: dict[str, Any], message: str) -> None:
    student, teacher = twin()
    setattr(student.config, FIELD, {"sparsity": 50, "candidates": [25, 50, 75], "heads": [], "neurons": []})
    with pytest.raises(ValueError, match=message):
        MiniDisc(**{"target": 75} | fields).prepare(Run(student, {}, steps=1, teacher=teacher))


def test_both_stages_of_the_recipe_resume_between_them(
    toy_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The assistant's note to its student outlives the process."""
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    stages = ("epochs=1", "lr=0.01", "evaluations=2", "techniques.0.target=75", "techniques.0.candidates=[50, 75]")
    small = [f"stages.{i}.{value}" for i in (0, 1) for value in stages]
    settings = [*toy_settings, "student.layers=[0, 1, 2, 3]", *small, "stages.0.techniques.0.trade_off=0"]
    recipe = Recipe.read("minidisc", [*settings, "export.int8=[static]"])
    compress(recipe, tmp_path / "whole")

    stage, begun = pipeline.run_stage, []

    def stopped(*args: Any, **given: Any) -> Any:
        begun.append(given["title"])
        return stage(*args, **given) if len(begun) < 2 else halt()

    monkeypatch.setattr(pipeline, "run_stage", stopped)
    with pytest.raises(KeyboardInterrupt):
        compress(recipe, tmp_path / "halves")
    assert len(begun) == 2
    monkeypatch.setattr(pipeline, "run_stage", stage)
    compress(recipe, tmp_path / "halves", resume=True)

    whole, halves = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "halves"))
    assert whole.keys() == halves.keys() and all(torch.equal(whole[name], halves[name]) for name in whole)
    config = json.loads((tmp_path / "halves" / "config.json").read_text(encoding="utf-8"))
    assert sum(heads for heads, _ in config["bantam_widths"]) == 2  # of 8
    assert FIELD not in config
