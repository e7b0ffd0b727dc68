"""Metrics against scikit-learn and scipy; intervals against a plain loop over resamples."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from serve import measures
from serve.measures import formulas, intervals, metrics

GENERATOR = np.random.default_rng(7)


def answers(classes: int, rows: int = 240) -> tuple[np.ndarray, np.ndarray]:
    logits = GENERATOR.normal(size=(rows, classes))
    labels = np.where(GENERATOR.random(rows) < 0.6, logits.argmax(1), GENERATOR.integers(0, classes, rows))
    return logits, labels


def scores(rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    targets = GENERATOR.integers(0, 11, rows) / 2.0  # many ties
    return (targets + GENERATOR.normal(size=rows)).round(1)[:, None], targets


ORACLES = {
    "accuracy": sklearn.metrics.accuracy_score,
    "macro_f1": lambda y, p: sklearn.metrics.f1_score(y, p, average="macro"),
    "matthews": sklearn.metrics.matthews_corrcoef,
}


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("metric", ORACLES)
def test_classification_metrics_equal_scikit_learn(metric: str, classes: int) -> None:
    logits, labels = answers(classes)
    assert measures.measure(metric, logits, labels) == pytest.approx(ORACLES[metric](labels, logits.argmax(1)))


def test_f1_is_of_class_one_with_two_classes_and_macro_with_more() -> None:
    logits, labels = answers(2)
    assert measures.measure("f1", logits, labels) == pytest.approx(sklearn.metrics.f1_score(labels, logits.argmax(1)))
    logits, labels = answers(4)
    assert measures.measure("f1", logits, labels) == measures.measure("macro_f1", logits, labels)


def test_macro_f1_leaves_out_classes_that_never_occur() -> None:
    logits, labels = answers(3)
    padded = np.concatenate([logits, np.full((len(logits), 2), -50.0)], axis=1)
    assert measures.measure("macro_f1", padded, labels) == pytest.approx(measures.measure("macro_f1", logits, labels))


def test_regression_metrics_equal_scipy_and_scikit_learn() -> None:
    outputs, targets = scores()
    flat = outputs[:, 0]
    assert measures.measure("pearson", outputs, targets) == pytest.approx(scipy.stats.pearsonr(flat, targets).statistic)
    assert measures.measure("spearman", outputs, targets) == pytest.approx(
        scipy.stats.spearmanr(flat, targets).statistic
    )
    assert measures.measure("mse", outputs, targets) == pytest.approx(sklearn.metrics.mean_squared_error(targets, flat))


def plain_bootstrap(statistic: Callable[[np.ndarray], float], rows: int, resamples: int = 2000) -> tuple[float, float]:
    generator = np.random.default_rng(3)
    values = [statistic(generator.integers(0, rows, rows)) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975])
    return low, high


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "matthews"])
def test_classification_interval_equals_a_loop_over_resamples(metric: str) -> None:
    logits, labels = answers(3)
    predictions = logits.argmax(1)
    low, high = plain_bootstrap(lambda rows: ORACLES[metric](labels[rows], predictions[rows]), len(labels), 600)
    found = measures.interval(metric, logits, labels, resamples=4000)
    assert found["low"] == pytest.approx(low, abs=0.015)
    assert found["high"] == pytest.approx(high, abs=0.015)
    assert found["low"] < found["value"] < found["high"]


@pytest.mark.parametrize("metric", ["pearson", "spearman", "mse"])
def test_regression_interval_equals_a_loop_over_resamples(metric: str) -> None:
    outputs, targets = scores()
    flat = outputs[:, 0]
    oracle = {
        "pearson": lambda rows: scipy.stats.pearsonr(flat[rows], targets[rows]).statistic,
        "spearman": lambda rows: scipy.stats.spearmanr(flat[rows], targets[rows]).statistic,
        "mse": lambda rows: float(np.mean((flat[rows] - targets[rows]) ** 2)),
    }[metric]
    low, high = plain_bootstrap(oracle, len(targets), 1000)
    found = measures.interval(metric, outputs, targets, resamples=4000)
    assert found["low"] == pytest.approx(low, rel=0.03)
    assert found["high"] == pytest.approx(high, rel=0.03)


def test_ranks_of_a_resample_equal_ranks_of_the_drawn_examples() -> None:
    outputs, targets = scores(40)
    weights = next(intervals._weights(40, 5, np.random.default_rng(0)))
    found = formulas.spearman(outputs[:, 0], targets, weights)
    for counts, value in zip(weights.astype(int), found, strict=True):
        rows = np.repeat(np.arange(40), counts)
        assert value == pytest.approx(scipy.stats.spearmanr(outputs[rows, 0], targets[rows]).statistic)


def test_interval_is_the_same_for_the_same_seed_and_narrower_at_a_lower_level() -> None:
    logits, labels = answers(2)
    wide = measures.interval("matthews", logits, labels)
    assert wide == measures.interval("matthews", logits, labels)
    narrow = measures.interval("matthews", logits, labels, level=0.5)
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_resamples_with_one_class_are_left_out_of_matthews() -> None:
    logits = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    found = measures.interval("matthews", logits, np.array([0, 0, 0, 1]))  # a third of the resamples has class 0 only
    assert found == {"value": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize("metric", ["matthews", "pearson", "spearman"])
def test_constant_answers_score_nothing_and_constant_labels_are_an_error(metric: str) -> None:
    wide = metric == "matthews"
    constant = np.tile([[2.0, 0.1]], (6, 1)) if wide else np.full((6, 1), 0.1)
    assert measures.measure(metric, constant, np.array([0, 1, 0, 1, 1, 0])) == 0.0
    varied = np.eye(2)[[0, 1, 0, 1, 1, 0]] if wide else np.arange(6.0)[:, None]
    with pytest.raises(ValueError, match="two different labels"):
        measures.measure(metric, varied, np.zeros(6, dtype=int))


def test_f1_without_any_positive_is_zero() -> None:
    assert measures.measure("f1", np.array([[1.0, 0.0]] * 4), np.zeros(4, dtype=int)) == 0.0


def test_agreement_is_the_share_of_equal_labels() -> None:
    logits, _ = answers(3)
    other = logits + GENERATOR.normal(size=logits.shape)
    found = measures.agreement(other, logits, kind="classification")
    assert found["value"] == pytest.approx(np.mean(other.argmax(1) == logits.argmax(1)))
    assert found["low"] < found["value"] < found["high"]
    assert measures.agreement(logits, logits, kind="classification") == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_agreement_for_regression_is_pearson() -> None:
    outputs, targets = scores()
    found = measures.agreement(outputs, targets[:, None], kind="regression")
    assert found["value"] == pytest.approx(scipy.stats.pearsonr(outputs[:, 0], targets).statistic)


def test_bad_input_is_refused() -> None:
    logits, labels = answers(2)
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        measures.measure("acuracy", logits, labels)
    with pytest.raises(ValueError, match="class indices below 2"):
        measures.measure("accuracy", logits, labels + 1)
    with pytest.raises(ValueError, match="N > 0"):
        measures.measure("accuracy", logits[:0], labels[:0])
    with pytest.raises(ValueError, match="finite"):
        measures.measure("accuracy", np.full((3, 2), np.nan), np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="kind"):
        measures.agreement(logits, logits, kind="ranking")


def test_every_metric_has_one_formula_and_a_direction() -> None:
    assert len(measures.METRICS) == len({*measures.METRICS}) == 12
    assert {*metrics.OF_COSINES.values()} <= {*formulas.OF_VALUES}
    assert [name for name in measures.METRICS if not measures.higher_is_better(name)] == ["mse"]
