"""Session: an artefact, loaded and ready to answer in process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serve.artefact import Artefact, load
from serve.encode import Encoded, Text, WordPieces
from serve.engines import AUTO, DEVICES, ENGINES, PREFERRED, Engine, Logits
from serve.errors import BackendError, InputError


@dataclass(frozen=True)
class Predictions:
    scores: Logits  # [texts, labels]: probabilities, or logits where raw or regression
    truncated: list[bool]
    tokens: int  # word pieces of all texts after truncation, padding apart


class Session:
    """Answers texts with one model of an artefact.

    `model` is a key of the manifest's models (default: the served one), `batch` the most texts a run (default: the
    model's own; our own engine chooses for itself). Nothing but the artefact and these arguments changes an answer,
    save for runtime "auto": our own engine where it runs the file, else onnxruntime, and `declined` says why.
    """

    def __init__(
        self,
        artefact: Artefact | Path | str,
        *,
        model: str | None = None,
        runtime: str = "onnxruntime",
        device: str = "cpu",
        threads: int = 1,
        batch: int | None = None,
    ) -> None:
        _one_of("runtime", runtime, (*ENGINES, AUTO))
        _one_of("device", device, DEVICES)
        if threads < 1 or (batch is not None and batch < 1):
            raise InputError(f"threads and batch must be 1 or more, got {threads} and {batch}")
        self.artefact = artefact if isinstance(artefact, Artefact) else load(artefact)
        manifest = self.artefact.manifest
        self.model = model or manifest.served
        self.device, self.threads = device, threads
        self.labels = manifest.task.labels
        path = self.artefact.path(self.model)
        self.batch = batch or manifest.models[self.model].batch
        self.pieces = WordPieces(
            self.artefact.root / manifest.encoder.file,
            max_length=manifest.encoder.max_length,
            pad_id=manifest.encoder.pad_id,
            inputs=manifest.encoder.inputs,
        )
        self.runtime, self._engine, self.declined = _first(runtime, path, device=device, threads=threads)

    def logits(self, texts: Sequence[Text], *, truncate: bool = True) -> Logits:
        """Logits [texts, labels], in the order of the texts."""
        return self._run(self.pieces.encode(texts, truncate=truncate))

    def predict(self, texts: Sequence[Text], *, truncate: bool = True, raw_scores: bool = False) -> Predictions:
        """Scores of each text: probabilities, or logits with `raw_scores`; a regression's value as it is."""
        encoded = self.pieces.encode(texts, truncate=truncate)
        logits = self._run(encoded)
        if not np.isfinite(logits).all():
            raise BackendError("the model's scores are not finite numbers")
        raw = raw_scores or self.artefact.manifest.task.kind == "regression"
        return Predictions(logits if raw else softmax(logits), encoded.truncated, sum(encoded.lengths()))

    def warm_up(self) -> None:
        """Run the shapes that the first callers would otherwise wait for: one short text, and a full batch."""
        words = "warm " * self.pieces.max_length
        pair = self.artefact.manifest.task.inputs == 2
        short: Text = ("warm", "up") if pair else "warm up"
        long: Text = (words, words) if pair else words
        for texts in ([short], [long] * self.batch, [short]):
            self.predict(texts)

    def _run(self, encoded: Encoded) -> Logits:
        """Texts of like length run together, since padding is work thrown away, unless the engine needs none."""
        logits = np.zeros((len(encoded), len(self.labels)), dtype=np.float32)
        ragged = getattr(self._engine, "ragged", None)
        if ragged is not None and len(encoded):
            types = encoded.types if "token_type_ids" in self.pieces.inputs else None
            return self._checked(ragged(encoded.ids, types), len(encoded))
        order = np.argsort(encoded.lengths(), kind="stable")
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            logits[rows] = self._checked(self._engine(self.pieces.batch(encoded, rows.tolist())), len(rows))
        return logits

    def _checked(self, logits: Logits, texts: int) -> Logits:
        if logits.shape != (texts, len(self.labels)):
            raise BackendError(
                f"the model gave logits of shape {logits.shape} for {texts} texts and {len(self.labels)} labels"
            )
        return logits


def softmax(logits: Logits) -> Logits:
    """Along the last axis, safe for large values."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Logits = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _first(runtime: str, path: Path, *, device: str, threads: int) -> tuple[str, Engine, str | None]:
    """The runtime that takes the file, its engine, and why "auto" did not take our own."""
    if runtime != AUTO:
        return runtime, ENGINES[runtime](path, device=device, threads=threads), None
    ours, other = PREFERRED
    try:
        return ours, ENGINES[ours](path, device=device, threads=threads), None
    except BackendError as error:
        return other, ENGINES[other](path, device=device, threads=threads), str(error)


def _one_of(what: str, got: str, known: tuple[str, ...]) -> None:
    if got not in known:
        raise InputError(f"{what} must be one of {', '.join(known)}, got {got!r}")
