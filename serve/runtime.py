"""Session: an artefact, loaded and ready to answer in process."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serve import machine
from serve.artefact import Artefact, load
from serve.choice import Choice, choose, costs_of, exact, opened
from serve.costs import Costs
from serve.encode import Encoded, Text, WordPieces
from serve.encoders import open_encoder
from serve.engine.scores import MOST, native
from serve.engines import AUTO, DEVICES, ENGINES, REFERENCE, Logits, answer, once, open_engine
from serve.errors import BackendError, InputError
from serve.ngram.encode import NGrams, check_whole
from serve.ngram.runtime import NARROW, Engine, straight


@dataclass(frozen=True)
class Predictions:
    scores: Logits  # [texts, labels]: probabilities, or logits where raw or regression; vectors [texts, size]
    truncated: list[bool]
    tokens: int  # word pieces, or words of n-grams, of all texts after truncation, padding apart


FEW = 16  # numbers that are quicker one by one
WARM = 1024  # words of the texts that warm up


class Session:
    """Answers texts with one model of an artefact.

    `model` is a key of the manifest's models (default: the served one), `runtime` one of `serve.engines` (default:
    onnxruntime; for n-grams, which it runs too, our own code), `batch` the most texts a run (default: the
    model's own; our own engines choose for themselves), `threads` those of a run and `callers` how many threads will
    ask at once (more than that wait for each other). Nothing but the artefact and these arguments changes an answer,
    save for runtime "auto": the quickest on this host, and `choice` says what was measured and what cannot run it.
    """

    def __init__(
        self,
        artefact: Artefact | Path | str,
        *,
        model: str | None = None,
        runtime: str | None = None,
        device: str = "cpu",
        threads: int = 1,
        callers: int = 1,
        batch: int | None = None,
    ) -> None:
        _one_of("runtime", runtime or REFERENCE, (*ENGINES, AUTO))
        _one_of("device", device, DEVICES)
        if min(threads, callers, 1 if batch is None else batch) < 1:
            raise InputError(f"threads, callers and batch must be 1 or more, got {threads}, {callers} and {batch}")
        self.artefact = artefact if isinstance(artefact, Artefact) else load(artefact)
        manifest = self.artefact.manifest
        self.model = model or manifest.served
        self.device, self.threads = device, threads
        self.labels, self.outputs = manifest.task.labels, manifest.task.outputs
        path = self.artefact.path(self.model)
        self.batch = batch or manifest.models[self.model].batch
        self.pieces = open_encoder(self.artefact)
        runtime = runtime or ("bantam" if isinstance(self.pieces, NGrams) else REFERENCE)
        self.choice = Choice(runtime=runtime)
        self.straight: Engine | None = None  # from text to logits at once
        if isinstance(self.pieces, NGrams) and runtime in (AUTO, "bantam"):
            self.straight = straight(self.pieces.answering, device=device, threads=threads)
            self.choice = Choice(runtime="bantam", declined={"openvino": NARROW})
        elif isinstance(self.pieces, NGrams) and runtime.startswith("openvino"):
            raise BackendError(f"runtime {runtime!r} does not run n-grams: {NARROW}; use 'bantam' or 'onnxruntime'")
        elif isinstance(self.pieces, WordPieces) and runtime == AUTO:
            self._choose(self.pieces, callers, alone=batch == 1, named=model is not None)
        else:
            self._engine = open_engine(runtime, path, device=device, threads=threads, callers=callers)
        self.runtime = self.choice.runtime

    def _choose(self, pieces: WordPieces, callers: int, *, alone: bool, named: bool) -> None:
        """The quickest runtime; on a processor where 8-bit products of others overflow, ours or the artefact's fp32."""
        manifest, device, threads = self.artefact.manifest, self.device, self.threads
        found, lost = None, dict[str, str]()
        if manifest.models[self.model].precision == "int8" and self.device == "cpu" and machine.saturates():
            found, lost = exact(self.artefact.path(self.model), device=device, threads=threads)
            if found is None and not named and "fp32" in manifest.models:
                self.model = "fp32"
                self.batch = 1 if alone else manifest.models["fp32"].batch
        path, digest = self.artefact.path(self.model), manifest.files[manifest.models[self.model].path].sha256
        found = found or choose(path, digest, pieces, batch=self.batch, device=device, threads=threads)
        self.choice, self._engine = opened(found, path, device=device, threads=threads, callers=callers)
        if lost:
            self.choice = self.choice.model_copy(update={"declined": {**self.choice.declined, **lost}})

    @property
    def engine_path(self) -> str | None:
        """The path through our own code that this processor takes; None where other code runs."""
        if self.straight is not None:
            return getattr(self.straight.answering, "path", "numpy")
        compiled = getattr(self._engine, "compiled", None)
        return None if compiled is None else str(compiled.path)

    def logits(self, texts: Sequence[Text], *, truncate: bool = True) -> Logits:
        """Logits [texts, labels], or the vectors [texts, size] of an embedding, in the order of the texts."""
        return self._answers(texts, truncate)[0]

    def predict(self, texts: Sequence[Text], *, truncate: bool = True, raw_scores: bool = False) -> Predictions:
        """Scores of each text: probabilities, or logits with `raw_scores`; a value or a vector as it is."""
        logits, truncated, tokens = self._answers(texts, truncate)
        return Predictions(self.finished(logits, raw=raw_scores), truncated, tokens)

    def finished(self, logits: Logits, *, raw: bool) -> Logits:
        """Scores of logits; BackendError where they are no numbers."""
        plain = raw or self.artefact.manifest.task.kind != "classification"
        quick = native()
        if not plain and quick is not None and logits.shape[1] <= MOST:
            scores = quick.softmax(logits)
        elif not plain and logits.size <= FEW:
            scores = few_softmax(logits)
        elif math.isfinite(np.add.reduce(logits, axis=None)):
            return logits if plain else softmax(logits)
        else:
            scores = None
        if scores is None:
            raise BackendError("what the model gives are not finite numbers")
        return scores

    def warm_up(self) -> None:
        """Run the shapes that the first callers would otherwise wait for: one short text, and a full batch."""
        words = "warm " * min(self.pieces.max_length, WARM)
        pair = self.artefact.manifest.task.inputs == 2
        short: Text = ("warm", "up") if pair else "warm up"
        long: Text = (words, words) if pair else words
        for texts in ([short], [long] * self.batch, [short]):
            self.predict(texts)

    def _answers(self, texts: Sequence[Text], truncate: bool) -> tuple[Logits, list[bool], int]:
        """Logits, which texts were cut, and the tokens of all."""
        if self.straight is None:
            encoded = self.pieces.encode(texts, truncate=truncate)
            return self.logits_of(encoded), encoded.truncated, sum(encoded.lengths())
        logits, words, cut = self.straight.texts(texts)
        truncated = cut.tolist()
        check_whole(truncated, truncate=truncate, max_length=self.pieces.max_length)
        return self._checked(logits, len(texts)), truncated, int(words.sum())

    def logits_of(self, encoded: Encoded) -> Logits:
        """What `logits` gives, of texts that `pieces` has encoded."""
        if not len(encoded):
            return np.zeros((0, self.outputs), dtype=np.float32)
        return self._checked(answer(self._engine, self.pieces, encoded, self.batch), len(encoded))

    def run(self, encoded: Encoded) -> Logits:
        """The same in one run of the model, as they are given: for whoever groups texts himself (`serve.batching`).

        May be called from several threads at once. N-grams on our own code take no groups: `logits` answers them.
        """
        return self._checked(once(self._engine, self.pieces, encoded), len(encoded))

    def costs(self) -> Costs | None:
        """What runs take on this host, measured when it is asked for the first time; None where that is unknown."""
        if not isinstance(self.pieces, WordPieces):
            return None
        manifest, alone = self.artefact.manifest, self.batch == 1
        path, digest = self.artefact.path(self.model), manifest.files[manifest.models[self.model].path].sha256
        runtime, device, threads = self.runtime, self.device, self.threads
        return costs_of(path, digest, self.pieces, runtime=runtime, alone=alone, device=device, threads=threads)

    def _checked(self, logits: Logits, texts: int) -> Logits:
        if logits.shape != (texts, self.outputs):
            raise BackendError(
                f"the model gave {logits.shape} numbers for {texts} texts; the manifest says {self.outputs} a text"
            )
        return logits


def softmax(logits: Logits) -> Logits:
    """Along the last axis, safe for large values; in double precision, and rounded once."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - np.maximum.reduce(wide, axis=-1, keepdims=True))
    result: Logits = (powers / np.add.reduce(powers, axis=-1, keepdims=True)).astype(np.float32)
    return result


def few_softmax(logits: Logits) -> Logits | None:
    """`softmax` without numpy, whose calls take longer than the arithmetic on a few numbers; None of what are none.

    The two exponentials differ by a unit in the last place of a double at most, which single precision does not show.
    """
    rows = []
    for row in logits.tolist():
        highest = max(row)
        powers = [math.exp(value - highest) for value in row]
        total = math.fsum(powers)
        if not math.isfinite(total) or min(row) == -math.inf:
            return None
        rows.append([power / total for power in powers])
    return np.array(rows, np.float32)


def _one_of(what: str, got: str, known: tuple[str, ...]) -> None:
    if got not in known:
        raise InputError(f"{what} must be one of {', '.join(known)}, got {got!r}")
