"""Does a served file say what the trained model says, and does it say so in any company?"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from serve.encode import Text, WordPieces
from serve.pairs import cosines
from serve.runtime import softmax

COMPANY = (1, 8, 32)  # texts a call


@dataclass(frozen=True)
class Parity:
    """What is compared are probabilities; values in standard deviations of the reference; or vectors, each by its
    distance from the reference's as a share of that one's length: no cosine of vectors 1 long moves by more.
    """

    mean: float  # |difference|
    max: float
    agreement: float  # share of equal labels; Pearson's correlation; of vectors mean cosine with the reference's

    def plain(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Limits:
    mean: float
    agreement: float

    def refusal(self, parity: Parity) -> str | None:
        """Why it is refused, or None."""
        if not parity.mean <= self.mean:  # so that NaN is refused
            return f"parity: scores differ by {parity.mean:.4f} on average, limit {self.mean}"
        if not parity.agreement >= self.agreement:
            return f"parity: {parity.agreement:.2%} agreement with the trained model, limit {self.agreement:.2%}"
        return None


FP32 = Limits(mean=1e-3, agreement=0.995)  # measured: 1e-7 and 1
INT8 = Limits(mean=0.05, agreement=0.95)  # measured: 0.012-0.016 and 0.98-0.99 good, 0.06 and 0.94 badly calibrated
VECTORS = Limits(mean=0.2, agreement=0.98)  # of INT8; measured: 0.096-0.098 and 0.995, both ways, 12 layers on STS-B
INVARIANCE = 0.01  # largest difference of a score between companies; measured: 0.0001 static, 0.2 dynamic


def torch_logits(model: nn.Module, pieces: WordPieces, texts: Sequence[Text], *, batch: int = 32) -> np.ndarray:
    """Logits [N, C] of the trained model, in evaluation mode and float32, in the order of the texts."""
    encoded = pieces.encode(texts)
    order = np.argsort(encoded.lengths(), kind="stable")
    device, training, parts = next(model.parameters()).device, model.training, []
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                feeds = pieces.batch(encoded, order[start : start + batch].tolist())
                output = model(**{name: torch.from_numpy(values).to(device) for name, values in feeds.items()})
                parts.append(output.logits.float().cpu().numpy())
    finally:
        model.train(training)
    found = np.concatenate(parts)
    logits = np.empty_like(found)
    logits[order] = found
    return logits


def compare(reference: np.ndarray, logits: np.ndarray, kind: str) -> Parity:
    """How far `logits` [N, C] are from `reference` [N, C]."""
    if kind == "embedding":
        lengths = np.maximum(np.linalg.norm(reference, axis=-1), 1e-12)
        difference = np.linalg.norm(logits - reference, axis=-1) / lengths
        agreement = float(cosines(reference, logits).mean())
    elif kind == "regression":
        reference, logits = reference.astype(np.float64).ravel(), logits.astype(np.float64).ravel()
        spread = max(float(reference.std()), 1e-6)
        difference = np.abs(logits - reference) / spread
        constant = min(reference.std(), logits.std()) < 1e-6  # no correlation; the mean difference judges alone
        agreement = 1.0 if constant else float(np.corrcoef(reference, logits)[0, 1])
    else:
        difference = np.abs(softmax(logits) - softmax(reference))
        agreement = float((logits.argmax(-1) == reference.argmax(-1)).mean())
    return Parity(float(difference.mean()), float(difference.max()), agreement)


def batch_invariance(
    logits: Callable[[Sequence[Text]], np.ndarray], texts: Sequence[Text], kind: str, *, seed: int = 0
) -> str | None:
    """None if each text gets the same answer alone and among 7 and 31 others, in ever different company; else why not.

    `logits` must answer as the file is served: `Session(artefact, model=...).logits`.
    """
    random = np.random.default_rng(seed)
    answers = []
    for size in COMPANY:
        order = random.permutation(len(texts))
        parts = [logits([texts[row] for row in order[at : at + size]]) for at in range(0, len(order), size)]
        answer = np.concatenate(parts)
        answers.append(answer[np.argsort(order)])
    for size, answer in zip(COMPANY[1:], answers[1:], strict=True):
        parity = compare(answers[0], answer, kind)
        if not parity.max <= INVARIANCE:
            return f"batch invariance: a score moves by {parity.max:.4f} in calls of {size} texts, limit {INVARIANCE}"
        if kind == "classification" and parity.agreement < 1:
            return f"batch invariance: {1 - parity.agreement:.2%} of labels change in calls of {size} texts"
    return None
