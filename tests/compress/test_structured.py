"""Structured pruning: choices worked out by hand, planted units, and a cut model that is the masked one."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from compress import blocktime
from compress.anatomy import part
from compress.blocktime import Costs, Setting, rising
from compress.budget import Half, cheapest_first, lowest, moments, removed
from compress.catalogue import techniques
from compress.export import int8
from compress.export.calibrate import ort_session
from compress.export.onnx import to_onnx
from compress.package import sparsity
from compress.prune import structured
from compress.prune.structured import StructuredPruning
from compress.recipe import Choice, TrainRecipe
from compress.stage import Material, run_stage
from compress.supervised import Supervised
from compress.technique import Run
from compress.train import train
from compress.weights import linears
from compress.widths import Keep, widths
from tests.compress.families import texts, tiny
from tests.compress.toy import examples

LINEAR = Costs(norm=1.0, attention=((0, 0.0), (4, 8.0)), ffn=((0, 0.0), (24, 12.0)))  # 2 a head, 1/2 a neuron
STACK = 3 * 21.0


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices of a machine where every stack takes just what its parts take."""
    monkeypatch.setattr(structured, "costs", lambda *_: LINEAR)
    monkeypatch.setattr(structured, "times", lambda _m, stacks, _s: [LINEAR.stack(widths) for widths in stacks])


def test_removal_follows_the_cubic_curve() -> None:
    assert [removed(k / 6) for k in range(7)] == pytest.approx([0, 0.4213, 0.7037, 0.875, 0.9630, 0.9954, 1], abs=1e-4)
    assert moments(6, 0.1, 0.6) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert moments(1, 0.1, 0.6) == [0.1]


def half(prices: list[float], times: list[float], step: int = 1) -> Half:
    """A half of len(prices) units, times[n] with n of them."""
    return Half(list(range(len(prices))), list(prices), lambda n: times[n], step)


def test_with_equal_costs_the_least_important_go_first() -> None:
    """No whole halves, the same time for each unit: the plain joint ranking."""
    rng = np.random.default_rng(0)
    halves = [half(sorted(rng.random(8)), list(range(9))) for _ in range(4)]
    expected = sorted(price for h in halves for price in h.prices)[13:]
    assert cheapest_first(halves, 13, whole=False) == 13
    assert sorted(price for h in halves for price in h.prices) == expected


def test_a_whole_half_goes_where_its_fixed_cost_pays() -> None:
    """Each of the first two units saves 1 for a price of 1; all three together save 10 for 3."""
    halves = [half([1, 1, 1], [0, 8, 9, 10]), half([0.5, 2, 2], [0, 1, 2, 3])]
    assert cheapest_first(halves, 5) == 10
    assert [h.units for h in halves] == [[], [0, 1, 2]]
    halves = [half([1, 1, 1], [0, 8, 9, 10]), half([0.5, 2, 2], [0, 1, 2, 3])]
    assert cheapest_first(halves, 2, whole=False) == 2
    assert [h.units for h in halves] == [[1, 2], [1, 2]]


def test_neurons_leave_in_groups_and_the_last_unit_stays() -> None:
    halves = [half([1] * 70, list(range(71)), step=32), half([5, 5], [0, 1, 2])]
    assert cheapest_first(halves, 33, whole=False) == 64
    assert [len(h.units) for h in halves] == [6, 2]
    assert cheapest_first(halves, 1000) == 7
    assert [len(h.units) for h in halves] == [0, 1]


def test_lowest_scores_of_all_rows_go() -> None:
    assert lowest([[3, 1, 2], [0.5, 9, 8]], 3) == [[0], [1, 2]]
    assert lowest([[3, 1, 2], [0.5, 9, 8]], 0) == [[0, 1, 2], [0, 1, 2]]


def test_times_that_fall_are_levelled() -> None:
    """Least squares under order, by hand."""
    assert rising([0, 2, 1, 5, 4, 3, 9]) == [0, 1.5, 1.5, 4, 4, 4, 9]
    assert rising([0, 1, 2]) == [0, 1, 2]


def test_widths_between_those_of_the_grid_are_interpolated() -> None:
    assert LINEAR.heads(3) == 6 and LINEAR.neurons(10) == 5
    assert LINEAR.stack([(4, 24)] * 3) == STACK


def trained(model: nn.Module, *names: Any, folder: Path, steps: int = 20, sample: int = 48, **fields: Any) -> Run:
    chosen = techniques((Choice(use="supervised"), Choice(use="prune/structured", **fields), *names))
    run = Run(model, chosen, steps=steps)
    recipe = TrainRecipe(lr=1e-3, evaluations=1, precision="fp32")
    train(run, examples(sample), recipe, folder=folder, evaluate=lambda _: 0.0, title="")
    return run


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
@pytest.mark.parametrize("budget", [0.7, 0.4, 0.12])
def test_the_budget_is_met(budget: float, family: str, tmp_path: Path) -> None:
    run = trained(tiny(family), folder=tmp_path, budget=budget, group=4)
    left = LINEAR.stack(widths(run.model)) / STACK
    assert budget - 8 / STACK - 1e-9 <= left <= budget + 1e-9  # a whole attention is the largest thing that goes
    facts = run.facts["structure"]
    assert facts["measured"] == pytest.approx(left) == facts["predicted"]
    assert facts["widths"] == run.model.config.bantam_widths == [list(pair) for pair in widths(run.model)]


@pytest.mark.usefixtures("priced")
def test_nothing_goes_at_the_whole_budget(tmp_path: Path) -> None:
    weights = []
    for name, fields in (("none", {"rule": "equal-fraction", "sparsity": 0.0}), ("all", {"budget": 1})):
        torch.manual_seed(0)
        run = trained(tiny("bert"), folder=tmp_path / name, **fields)
        weights.append(torch.cat([p.detach().flatten() for _, p in sorted(run.model.named_parameters())]))
        assert widths(run.model) == [(4, 24)] * 3
    torch.manual_seed(0)
    plain = Run(tiny("bert"), {"supervised": Supervised()}, steps=20)
    recipe = TrainRecipe(lr=1e-3, evaluations=1, precision="fp32")
    train(plain, examples(), recipe, folder=tmp_path / "plain", evaluate=lambda _: 0.0, title="")
    expected = torch.cat([p.detach().flatten() for _, p in sorted(plain.model.named_parameters())])
    assert all(torch.equal(w, expected) for w in weights)


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_equal_fraction_counts(sparsity: float, tmp_path: Path) -> None:
    left = widths(trained(tiny("bert"), folder=tmp_path, rule="equal-fraction", sparsity=sparsity).model)
    assert sum(heads for heads, _ in left) == 12 - round(sparsity * 12)
    assert sum(neurons for _, neurons in left) == 72 - round(sparsity * 72)


class Watch(StructuredPruning):
    """Remembers what stood after every update, and the masked model's answers at the end."""

    def after_update(self, run: Run) -> None:
        super().after_update(run)
        self.__dict__.setdefault("seen", []).append(self.kept())

    @torch.no_grad()
    def finish(self, run: Run) -> None:
        super().finish(run)
        self.masked = run.model.eval()(**texts()).logits


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize("fields", [{"budget": 0.4, "group": 4}, {"rule": "equal-fraction", "sparsity": 0.8}])
@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
def test_cut_is_masked_and_what_is_gone_never_returns(family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    watch = Watch(**fields)
    run = Run(tiny(family), {"supervised": Supervised(), "it": watch}, steps=20)
    recipe = TrainRecipe(lr=1e-2, evaluations=1, precision="fp32")
    train(run, examples(), recipe, folder=tmp_path, evaluate=lambda _: 0.0, title="")
    with torch.no_grad():
        assert (run.model(**texts()).logits - watch.masked).abs().max() < 1e-5
    counts = [[(len(k.heads), len(k.neurons)) for k in kept] for kept in watch.seen]
    assert counts[0] == [(4, 24)] * 3 and counts[11] == counts[-1] == widths(run.model) and len({*map(str, counts)}) > 3
    for before, after in zip(watch.seen[:-1], watch.seen[1:], strict=True):
        assert all(set(a.heads) <= set(b.heads) for a, b in zip(after, before, strict=True))
        assert all(set(a.neurons) <= set(b.neurons) for a, b in zip(after, before, strict=True))


@pytest.mark.usefixtures("priced")
def test_planted_units_go_first() -> None:
    """Heads and neurons that reach nothing cost nothing to lose: the first 8 + 5 in time."""
    model = tiny("bert")
    with torch.no_grad():
        for row, heads in enumerate([(1, 2), (3,), (0,)]):
            weight = model.get_submodule(part(model, row, "attention_out")).weight
            weight[:, [4 * head + i for head in heads for i in range(4)]] = 0
            model.get_submodule(part(model, row, "ffn_out")).weight[:, row : row + 4] = 0
    technique = StructuredPruning(budget=1 - 14 / STACK, group=4)
    run = Run(model, {"it": technique}, steps=10, sample=lambda _: iter(labelled()))
    run.prepare()
    technique.remove(run, 1.0, technique.scores(run))
    assert [k.heads for k in technique.kept()] == [(0, 3), (0, 1, 2), (1, 2, 3)]
    assert [sorted({*range(24)} - {*k.neurons}) for k in technique.kept()] == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]


def labelled() -> list[dict[str, torch.Tensor]]:
    return [texts() | {"labels": torch.tensor([0, 1, 1, -100]), "rows": torch.arange(4)}]


@pytest.mark.usefixtures("priced")
def test_a_stack_slower_than_planned_loses_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_model: Any, stacks: Any, _setting: Any) -> list[float]:
        base, dense, cut = (LINEAR.stack(widths) for widths in stacks)
        return [base, dense, cut * 1.2]

    monkeypatch.setattr(structured, "times", slow)
    technique = StructuredPruning(budget=0.5, group=1)
    run = Run(tiny("bert"), {"it": technique}, steps=10, step=6, sample=lambda _: iter(labelled()))
    run.prepare()
    technique.after_update(run)
    left = LINEAR.stack([(len(k.heads), len(k.neurons)) for k in technique.kept()]) / STACK
    assert 0.35 < left <= 0.5 / 1.2


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": 0}, "above 0 and at most 1, got 0"),
        ({"budget": 1.1}, "above 0 and at most 1, got 1.1"),
        ({"budget": 0.05}, r"budget of 0.05 .* below what one block costs: 3 blocks .* take 0.079 here; raise budget"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"sparsity": -0.1}, "sparsity must be"),
        ({"begin": 0.7}, "begin <= end <= 1 and rounds >= 1"),
        ({"end": 1.2}, "begin <= end <= 1 and rounds >= 1"),
        ({"rounds": 0}, "begin <= end <= 1 and rounds >= 1"),
        ({"group": 0}, "must be 1 or more"),
        ({"length": 0}, "must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    run = Run(tiny("bert"), techniques((Choice(use="prune/structured", **{"group": 4} | fields),)), steps=1)
    with pytest.raises(ValueError, match=message):
        run.prepare()


@pytest.mark.usefixtures("priced")
def test_a_rehearsal_measures_nothing_and_gives_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structured, "times", None)
    run = Run(tiny("bert"), techniques((Choice(use="prune/structured", budget=0.4, group=4),)), steps=1)
    run.prepare()
    run.finish()
    assert 0.4 - 8 / STACK <= LINEAR.stack(widths(run.model)) / STACK <= 0.4


@pytest.mark.usefixtures("priced")
def test_only_weights_that_are_pruned_are_kept(tmp_path: Path) -> None:
    """The first evaluations score best, and their model is still whole."""
    scores = iter((0.9, 0.8, 0.3, 0.2, 0.4))
    run = Run(tiny("bert"), techniques((Choice(use="supervised"), Choice(use="prune/structured", group=4))), steps=20)
    recipe = TrainRecipe(lr=1e-3, evaluations=5, precision="fp32", keep="best")
    seen: list[torch.Tensor] = []

    def falling(model: nn.Module) -> float:
        seen.append(next(iter(linears(model)))[1].weight.detach().clone())
        return next(scores)

    train(run, examples(), recipe, folder=tmp_path, evaluate=falling, title="")
    assert LINEAR.stack(widths(run.model)) / STACK <= 0.5
    kept = next(iter(linears(run.model)))[1].weight
    rows = [torch.isin(w.sum(1), kept.sum(1)).sum().item() for w in seen]
    assert rows.index(len(kept)) == 4


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize("order", ["structured first", "quantised first"])
def test_trained_integers_survive_the_cut(order: str, tmp_path: Path) -> None:
    """The exported file with QAT's own scales answers as the fake-quantised model did before the cut."""
    names = [Choice(use="prune/structured", budget=0.4, group=4), Choice(use="quantise/qat", embeddings=False)]
    chosen = techniques((Choice(use="supervised"), *(names if order == "structured first" else names[::-1])))
    run = Run(tiny("bert"), chosen, steps=20)
    recipe = TrainRecipe(lr=1e-3, evaluations=2, precision="fp32", keep="last")
    before: list[torch.Tensor] = []

    @torch.no_grad()
    def remember(model: nn.Module) -> float:
        before.append(model(**texts()).logits)
        return 0.0

    train(run, examples(), recipe, folder=tmp_path, evaluate=remember, title="")
    record = run.facts["quantisation"]
    assert all(len(record[name]["weight_scale"]) == layer.out_features for name, layer in linears(run.model))
    feed = {name: value.numpy() for name, value in texts().items()}
    fp32 = to_onnx(run.model, tmp_path / "model.onnx", inputs=tuple(feed))
    int8.qat(int8.Source(run.model, fp32, [], "classification", record), tmp_path / "int8.onnx")
    answer = ort_session(tmp_path / "int8.onnx").run(["logits"], feed)[0]
    assert np.abs(answer - before[-1].numpy()).max() < 2e-2
    assert all(0 not in tensor.dims for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer)
    assert 0 <= sparsity(run.model)["unstructured"] < 0.2


class Stop(Supervised):
    """A power cut after update 14."""

    def before_update(self, run: Run) -> None:
        if run.step == 14:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("priced")
def test_a_stopped_stage_goes_on_and_a_finished_one_is_read(tmp_path: Path) -> None:
    recipe = TrainRecipe(lr=1e-3, evaluations=2, precision="fp32", epochs=20 / 6, checkpoint=5)

    def stage(model: nn.Module, folder: str, first: Any = Supervised) -> Any:
        chosen = {"first": first(), "cut": StructuredPruning(budget=0.4, group=4)}
        chosen |= techniques((Choice(use="prune/layers", drop=1), Choice(use="quantise/qat")))
        options = {"folder": tmp_path / folder, "seed": 0, "title": ""}
        material = lambda: Material(examples(), lambda _: 0.0)  # noqa: E731
        return run_stage(model, chosen, recipe, material, Accelerator(cpu=True), **options)

    whole, content = stage(tiny("bert"), "whole")
    with pytest.raises(KeyboardInterrupt):
        stage(tiny("bert"), "stopped", Stop)
    assert (tmp_path / "stopped" / "checkpoint.pt").exists()
    resumed, _ = stage(tiny("bert"), "stopped")
    again, read = stage(tiny("bert", seed=5), "whole")
    for model in (resumed, again):
        assert widths(model) == widths(whole) and len(widths(model)) == 2
        assert model.config.to_dict() == whole.config.to_dict()
        mine, theirs = model.state_dict(), whole.state_dict()
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert read["facts"]["structure"] == content["facts"]["structure"]


def test_a_second_stage_takes_the_cut_model(priced: None, teacher: Any, tmp_path: Path) -> None:
    student = tiny("bert", hidden_size=16)
    first = trained(student, folder=tmp_path / "1", budget=0.5, group=4).model
    names = ("distil/logits", "prune/magnitude", "quantise/qat")
    more = [Choice(use="distil/tinybert", attention=False), Choice(use="distil/distilbert")]
    chosen = techniques((*(Choice(use=name) for name in names), *more, Choice(use="prune/structured", budget=0.6)))
    run = Run(first.train(), chosen, steps=12, teacher=tiny("bert", seed=7).requires_grad_(False))
    before = LINEAR.stack(widths(first))
    recipe = TrainRecipe(lr=1e-3, evaluations=1, precision="fp32")
    train(run, examples(), recipe, folder=tmp_path / "2", evaluate=lambda _: 0.0, title="")
    assert LINEAR.stack(widths(run.model)) <= 0.6 * before + 1e-9


def test_a_block_that_seems_to_cost_less_than_none_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stacks (none, an empty block, 1 to 4 heads, neurons) the first head was timed below the empty block."""
    monkeypatch.setattr(blocktime, "NEURONS", 4)
    monkeypatch.setattr(
        blocktime, "times", lambda _, stacks, __: [1.0, 2.0, 1.9, *(2.0 + n for n in range(len(stacks) - 3))]
    )
    found = blocktime.measured(tiny("bert"), Setting(length=16, batch=2))
    assert [time for _, time in found.attention[:3]] == [0, 0, 0] and found.norm == 1 and found.attention[-1][1] == 2


def test_times_are_measured_once_for_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real files in onnxruntime: wider is never faster, and the second time comes from the cache."""
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path))
    model, setting = tiny("bert"), Setting(length=16, batch=2)
    found = blocktime.costs(model, setting, Accelerator(cpu=True))
    assert [heads for heads, _ in found.attention] == [0, 1, 2, 3, 4] and found.ffn[-1][0] == 24
    for curve in (found.attention, found.ffn):
        assert curve[0][1] == 0 and list(curve) == sorted(curve) and curve[-1][1] > 0
    (path,) = (tmp_path / "costs").glob("*.json")
    assert json.loads(path.read_text())["norm"] == found.norm >= 0
    monkeypatch.setattr(blocktime, "measured", None)
    assert blocktime.costs(model, setting, Accelerator(cpu=True)) == found


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_timed_files_have_the_shapes_of_what_is_cut(precision: Any, tmp_path: Path) -> None:
    stack = [(2, 8), (0, 4), (3, 0)]
    path = blocktime.file(tiny("bert"), stack, Setting(length=16, batch=2, precision=precision), tmp_path)
    shapes = {tuple(tensor.dims) for tensor in onnx.load(path).graph.initializer}
    assert {(16, 8), (8, 16), (16, 4), (4, 16), (16, 12), (12, 16)} <= shapes and (16, 24) not in shapes
    assert all(0 not in shape for shape in shapes)


def test_keeps_of_two_techniques_meet() -> None:
    run = Run(copy.deepcopy(tiny("bert")), {}, steps=1)
    run.cut([Keep((0, 1, 3), (1, 2, 9))] * 3)
    run.cut([Keep((1, 2, 3), (2, 9, 11))] * 3)
    run.finish()
    assert run.keep == [Keep((1, 3), (2, 9))] * 3 and widths(run.model) == [(2, 2)] * 3
