"""A trained model becomes an artefact: ONNX files, measures on the reported splits, model card, checksums."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import nn

from compress import evaluate
from compress.data.load import Data
from compress.export import ngram
from compress.export.card import card
from compress.export.choose import export_models
from compress.ngram.reading import Reading
from compress.progress import say
from compress.recipe import Recipe
from serve import artefact
from serve.artefact import Artefact
from serve.encode import Text, WordPieces
from serve.machine import describe
from serve.manifest import Encoder, Manifest, Task
from serve.measures import agreement, interval
from serve.runtime import Session

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def package(
    model: nn.Module,
    tokenizer: Path,
    target: Path,
    *,
    name: str,
    encoder: Encoder,
    pieces: WordPieces | Reading,
    data: Data,
    recipe: Recipe,
    identity: dict[str, Any],
    reference: dict[str, np.ndarray],
    accelerator: Accelerator,
    own: dict[str, np.ndarray] | None = None,
    facts: dict[str, Any] | None = None,
    costs: Sequence[dict[str, Any]] = (),
    force: bool = False,
) -> Artefact:
    """Write `model` as the artefact `target`, whole or not at all.

    `tokenizer` is a folder with the tokenizer's files, which with `encoder` is for students that read word pieces as
    the teacher does; `pieces` is how `model` reads texts. `reference` holds the teacher's logits [N, C] on each
    reported split, `own` those of `model` where they are known already; `costs` is what each stage took.
    """
    with artefact.write(target, force=force) as staging:
        say(f"{name}: export to ONNX and INT8")
        task = task_of(model, data)
        judged = {"kind": data.kind, "selection": data.selection, "metric": data.metric}
        if isinstance(pieces, Reading):
            encoder = ngram.encoder(pieces)
            exported = ngram.export_ngrams(model, pieces, staging, options=recipe.export, log=say, **judged)
        else:
            model.save_pretrained(staging)
            for file in TOKENIZER_FILES:
                if (tokenizer / file).exists():
                    shutil.copy(tokenizer / file, staging / file)
            exported = export_models(
                model,
                staging,
                encoder=encoder,
                pieces=pieces,
                calibration=sample(data.train.texts, recipe.export.calibration, seed=recipe.seed),
                options=recipe.export,
                log=say,
                record=(facts or {}).get("quantisation"),
                embedding=task.embedding,
                **judged,
            )
        draft = Manifest(
            name=name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            task=task,
            encoder=encoder,
            models=exported.models,
            served=exported.served,
            recipe=recipe.plain(),
            teacher=identity,
            candidates=exported.candidates,
            provenance={
                "machine": describe(),
                "data": data.fingerprint,
                "notes": list(data.notes),
                "cost": list(costs),
            },
        )
        own = own or {split: torch_logits(model, pieces, rows, accelerator) for split, rows in data.reports.items()}
        metrics = measured(Artefact(staging, draft), data, own, reference)
        manifest = draft.model_copy(update={"metrics": metrics, "sparsity": sparsity(model)})
        (staging / "README.md").write_text(card(manifest), encoding="utf-8")
        artefact.seal(staging, manifest)
    return artefact.load(target, verify=False)


def task_of(model: nn.Module, data: Data) -> Task:
    """What the artefact says that it is for. An embedding takes one text, though pairs are what it is judged on."""
    if data.kind == "embedding":
        return Task(kind="embedding", inputs=1, metric=data.metric, embedding=model.embedding)
    columns = data.columns
    return Task(kind=data.kind, inputs=len(columns), labels=data.labels, metric=data.metric, columns=columns)


def sample(texts: Sequence[Text], size: int, *, seed: int) -> list[Text]:
    """At most `size` texts drawn without replacement: files are often sorted by label or length."""
    rows = np.random.default_rng(seed).permutation(len(texts))[:size]
    return [texts[row] for row in rows]


def torch_logits(model: nn.Module, pieces: WordPieces | Reading, examples: Any, accelerator: Accelerator) -> np.ndarray:
    batches = evaluate.batches(pieces, examples, accelerator.device, size=evaluate.SIZE)  # this process alone
    return evaluate.logits(model.to(accelerator.device), batches)


def measured(
    drafted: Artefact, data: Data, own: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The metric of torch, of the served file and of the teacher on every reported split, with intervals.

    Files that are not served were judged on the selection split, and on large splits their time is better saved.
    """
    metrics: dict[str, Any] = {}
    served = drafted.manifest.served
    for split, examples in data.reports.items():
        answers = {"torch": own[split], served: Session(drafted, model=served).logits(examples.texts)}
        teacher = reference[split]
        rows: dict[str, Any] = {
            "rows": len(examples.joined()),
            "teacher": interval(data.metric, teacher, examples.labels, texts=examples.texts),
        }
        for key, logits in answers.items():
            rows[key] = interval(data.metric, logits, examples.labels, texts=examples.texts)
            rows[f"agreement_{key}"] = agreement(logits, teacher, kind=data.kind)
        metrics[split] = rows
    return metrics


def sparsity(model: nn.Module) -> dict[str, float]:
    """Share of zeros among the weights of all linear layers."""
    weights: Sequence[Any] = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    zeros = sum(int((w == 0).sum()) for w in weights)
    return {"unstructured": round(zeros / sum(w.numel() for w in weights), 6)}
