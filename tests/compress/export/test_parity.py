import numpy as np
import pytest

from compress.export.parity import FP32, INT8, batch_invariance, compare


def test_probabilities_are_compared_and_not_logits() -> None:
    reference, shifted = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[5.0, 5.0], [7.0, 5.0]])
    assert compare(reference, shifted, "classification").max < 1e-12
    found = compare(np.array([[0.0, 0.0]]), np.array([[np.log(3), 0.0]]), "classification")
    assert (found.mean, found.max, found.agreement) == pytest.approx((0.25, 0.25, 1.0))


def test_regression_is_measured_in_standard_deviations_and_correlation() -> None:
    reference = np.array([[-1.0], [1.0]])  # standard deviation 1
    found = compare(reference, reference * 0.5, "regression")
    assert (found.mean, found.agreement) == pytest.approx((0.5, 1.0))
    assert compare(reference, -reference, "regression").agreement == pytest.approx(-1)


def test_nan_is_refused() -> None:
    answers = np.zeros((4, 2))
    assert INT8.refusal(compare(answers, answers * np.nan, "classification")) is not None
    assert FP32.refusal(compare(answers, answers, "classification")) is None


def test_agreement_is_gated_apart_from_the_mean() -> None:
    reference = np.tile([0.01, 0.0], (100, 1))
    flipped = reference.copy()
    flipped[:10] *= -1  # hardly a change of probability, yet another label
    assert "90.00% agreement" in str(INT8.refusal(compare(reference, flipped, "classification")))


def test_an_answer_that_depends_on_company_is_found() -> None:
    values = {str(at): at / 64 for at in range(64)}

    def alone(texts: list[str]) -> np.ndarray:
        return np.array([[values[text], -values[text]] for text in texts])

    def of_the_mean(texts: list[str]) -> np.ndarray:
        return alone(texts) + np.mean([values[text] for text in texts]) * np.array([0.2, 0])

    assert batch_invariance(alone, list(values), "classification") is None
    assert "calls of 8" in str(batch_invariance(of_the_mean, list(values), "classification"))
