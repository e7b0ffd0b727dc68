"""The teacher: fine-tuned once per recipe and data, kept in the cache as an artefact of its own.

Its name in the cache is a digest of all that determines its weights, so a second recipe with the same
teacher finds it there, and a killed fine-tuning goes on where its last checkpoint stands.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from filelock import FileLock
from torch import nn

from compress import answers, evaluate
from compress.data.load import Data, Examples
from compress.embedder import load_for, pooling_of
from compress.models import align_labels, encoder_of, locate, pieces_of
from compress.package import package
from compress.progress import say
from compress.recipe import ExportRecipe, Recipe, TeacherRecipe, digest
from compress.stage import autocast_for, on_task, run_stage
from compress.supervised import Supervised
from serve import artefact, cache
from serve.artefact import Artefact
from serve.encode import WordPieces
from serve.runtime import Session


@dataclass
class Teacher:
    key: str
    artefact: Artefact
    model: nn.Module
    pieces: WordPieces
    served: bool = False  # whether logits come from the file that is served, and not from torch

    @property
    def costs(self) -> list[dict[str, Any]]:
        """What its fine-tuning took."""
        return list(self.artefact.manifest.provenance.get("cost", ()))

    def logits(self, examples: Examples, accelerator: Accelerator, autocast: Any) -> np.ndarray:
        """Logits [N, C] on every text, computed once and then read from the cache.

        Processes share the work, and what was done before a stop is not done again.
        """
        self.model.to(accelerator.device)
        with autocast():
            precision = self.artefact.manifest.served if self.served else precision_now(accelerator)
            return asked(self.opened, self.key, precision, self.pieces, examples, accelerator)

    def reference(self, recipe: TeacherRecipe, data: Data, accelerator: Accelerator) -> dict[str, np.ndarray]:
        """What students are held against: `reports` of this teacher."""
        return reports(self.key, self.model, self.pieces, recipe, data, accelerator)

    def opened(self) -> answers.Answer:
        """What answers encoded texts: torch, or the file that is served in the runtime that is quickest here."""
        if not self.served:
            return partial(evaluate.logits, self.model)
        session = Session(self.artefact, runtime="auto")
        return lambda data: session.logits_of(data.encoded)


def reports(
    key: str, model: nn.Module, pieces: WordPieces, recipe: TeacherRecipe, data: Data, accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """Logits [N, C] of torch on each reported split, computed once for the teacher and all its students.

    In the precision of its own training, by which it was selected and in which students ask it.
    """
    model.to(accelerator.device)
    answer = partial(evaluate.logits, model)
    with autocast_for(recipe.precision, accelerator.device)():
        precision = precision_now(accelerator)
        return {
            split: asked(lambda: answer, key, precision, pieces, examples, accelerator)
            for split, examples in data.reports.items()
        }


def precision_now(accelerator: Accelerator) -> str:
    """Of what torch computes here."""
    return "bf16" if torch.is_autocast_enabled(accelerator.device.type) else "fp32"


def asked(
    answer: Callable[[], answers.Answer],
    key: str,
    precision: str,
    pieces: WordPieces,
    examples: Examples,
    accelerator: Accelerator,
) -> np.ndarray:
    """The teacher's answers [N, C] in that precision, from the cache where they are there; processes share the work."""
    shares = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    data = evaluate.batches(pieces, examples, accelerator.device, size=evaluate.SIZE, **shares)
    folder = cache.folder() / "logits" / f"{key}-{precision}"
    with alone(folder, accelerator):
        return answers.logits(answer, data, folder, accelerator, f"teacher ({precision})")


@contextmanager
def alone(path: Path, accelerator: Accelerator) -> Iterator[None]:
    """Make `path` in this run and no other at the same time: the others wait, and then find it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock") if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        yield
        accelerator.wait_for_everyone()


def weights_digest(source: str) -> str:
    """Content of the checkpoint's weights where they lie on disk, else its hub name."""
    files = (
        sorted(Path(source).glob("*.safetensors")) or sorted(Path(source).glob("*.bin"))
        if Path(source).is_dir()
        else []
    )
    sha = hashlib.sha256(source.encode() if not files else b"")
    for file in files:
        with file.open("rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()[:16]


def key_of(recipe: Recipe, data: Data) -> str:
    training = recipe.teacher.model_dump(exclude={"answers", "checkpoint", "model", "seed"}, exclude_none=True)
    vectors = {"embedding": [pooling_of(recipe), recipe.task.normalised]} if data.kind == "embedding" else {}
    return digest(
        {
            **vectors,
            "model": weights_digest(locate(recipe.teacher.model)),
            "training": training,
            "data": data.fingerprint,
            "max_length": recipe.task.max_length,
            "metric": data.metric,
            "seed": seed_of(recipe),
        }
    )


def seed_of(recipe: Recipe) -> int:
    return recipe.seed if recipe.teacher.seed is None else recipe.teacher.seed


def teachers(recipe: Recipe, data: Data, accelerator: Accelerator) -> list[Teacher]:
    """All that the recipe names, `recipe.teacher` the first."""
    return [teacher(alone, data, accelerator) for alone in recipe.taught]


def teacher(recipe: Recipe, data: Data, accelerator: Accelerator) -> Teacher:
    """Fine-tune the teacher, or take it from the cache."""
    key = key_of(recipe, data)
    folder = cache.folder() / "teachers" / key
    with alone(folder, accelerator):
        if not (folder / artefact.MANIFEST).exists():
            fine_tune(recipe, data, accelerator, key, folder)
    found = artefact.load(folder)
    if accelerator.is_main_process:
        scores = {split: round(rows["teacher"]["value"], 4) for split, rows in found.manifest.metrics.items()}
        say(f"teacher {key}: {recipe.teacher.model}, {data.metric} {scores}")
    model, _ = load_for(recipe, data, str(folder))
    pieces = pieces_of(folder, found.manifest.encoder)
    return Teacher(key, found, model.requires_grad_(False), pieces, served=recipe.teacher.answers == "served")


def fine_tune(recipe: Recipe, data: Data, accelerator: Accelerator, key: str, folder: Path) -> None:
    """Train on gold labels alone, if at all, and write the artefact; a killed attempt is continued."""
    set_seed(seed_of(recipe))
    model, tokenizer = load_for(recipe, data, recipe.teacher.model)
    encoder = encoder_of(model, tokenizer, recipe.task.max_length)
    work = folder.with_suffix(".run")
    if accelerator.is_main_process:
        if not work.exists():  # what an earlier teacher of that name answered is not what this one will
            for old in (cache.folder() / "logits").glob(f"{key}-*"):
                shutil.rmtree(old, ignore_errors=True)
        tokenizer.save_pretrained(work)
    accelerator.wait_for_everyone()
    pieces = pieces_of(work, encoder)
    costs = []
    if recipe.teacher.epochs:
        model, content = run_stage(
            model,
            {"supervised": Supervised()},
            recipe.teacher,
            partial(on_task, recipe.teacher, data, pieces, accelerator, seed=seed_of(recipe)),
            accelerator,
            folder=work,
            seed=seed_of(recipe),
            title="teacher",
        )
        costs = [content["cost"]]
    elif data.kind != "embedding":
        align_labels(model, recipe.teacher.model, data.labels)
    own = reports(key, model.eval(), pieces, recipe.teacher, data, accelerator)
    if accelerator.is_main_process:
        identity = {"key": key, "model": recipe.teacher.model}
        package(
            model.cpu(),
            work,
            folder,
            name="teacher",
            encoder=encoder,
            pieces=pieces,
            data=data,
            recipe=recipe.model_copy(update={"export": ExportRecipe()}),  # students exported otherwise share it
            identity=identity,
            own=own,
            reference=own,
            accelerator=accelerator,
            costs=costs,
        )
        shutil.rmtree(work)
