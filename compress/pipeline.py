"""data -> teacher -> student -> stages -> export -> gate. Read it from top to bottom."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from accelerate import Accelerator
from torch import nn

from compress import catalogue, models
from compress.data.load import Data, load
from compress.package import package, torch_logits
from compress.progress import say
from compress.recipe import Recipe
from compress.stage import run_stage
from compress.students.truncated import Truncated
from compress.teacher import Teacher, teacher
from compress.technique import Run
from compress.weights import fold
from serve import artefact
from serve.artefact import Artefact


def compress(recipe: Recipe, out: Path, *, resume: bool = False, force: bool = False) -> Artefact:
    """Build the student that `recipe` describes as the artefact `out`.

    What the run needs to go on after a stop lies in `<out>.run`; with `resume` it is continued, and an `out`
    that this very recipe has finished is given back as it is. Raises ValueError, before any training, for
    whatever in the recipe, its data or its folders a user can mend.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        say(f"{accelerator.num_processes} processes share each update")
    student = catalogue.make(recipe.student, catalogue.STUDENTS)
    work = out.with_name(f"{out.name}.run")
    if (finished := claim(recipe, out, work, resume=resume, force=force)) is not None:
        return finished
    examples = load(recipe.task, seed=recipe.seed)
    rehearse(recipe, examples, student, accelerator)
    if accelerator.is_main_process:
        begin(recipe, out, work, examples)
    accelerator.wait_for_everyone()

    tutor = teacher(recipe, examples, accelerator)
    model = student.build(tutor.model).requires_grad_(True)
    say(f"student: {parameters(model):,} parameters, the teacher has {parameters(tutor.model):,}")
    facts: dict[str, Any] = {}
    for number, stage in enumerate(recipe.stages):
        model, content = run_stage(
            model,
            catalogue.techniques(stage.techniques),
            stage,
            examples,
            tutor.pieces,
            accelerator,
            folder=work / f"stage-{number}",
            seed=recipe.seed + number,
            title=f"stage {number + 1} of {len(recipe.stages)}",
            teacher=tutor,
        )
        facts = content["facts"]  # of the last stage: later training would make earlier ones untrue
    if accelerator.is_main_process:
        finish(recipe, out, examples, tutor, model, facts, accelerator, force=force)
        for number, _ in enumerate(recipe.stages):
            shutil.rmtree(work / f"stage-{number}", ignore_errors=True)
    accelerator.wait_for_everyone()
    return artefact.load(out, verify=False)


def claim(recipe: Recipe, out: Path, work: Path, *, resume: bool, force: bool) -> Artefact | None:
    """Whether this run may have `out`: the finished artefact if there is nothing to do, None to go ahead."""
    if (out / artefact.MANIFEST).exists() and resume:
        found = artefact.load(out)
        if found.manifest.recipe == recipe.plain():
            say(f"{out} is finished; nothing to do")
            return found
    if out.exists() and not force:
        raise ValueError(
            f"{out} exists already; choose another --out, or --force to replace it once the new one is whole"
        )
    begun = work / "recipe.yaml"
    if not begun.exists() or force:
        return None
    before = yaml.safe_load(begun.read_text(encoding="utf-8"))
    if not resume:
        raise ValueError(f"{work} holds an unfinished run; continue it with --resume, or start anew with --force")
    if before != recipe.plain():
        raise ValueError(
            f"{work} was begun with another recipe: {difference(before, recipe.plain())}; "
            "set it back, choose another --out, or start anew with --force"
        )
    return None


def rehearse(recipe: Recipe, examples: Data, student: Truncated, accelerator: Accelerator) -> None:
    """Go through every stage without an update, so that what cannot work is said before hours of training."""
    teacher, _ = models.load(recipe.teacher.model, examples.labels, recipe.task.max_length)
    model = student.build(teacher)
    for stage in recipe.stages:
        run = Run(model, catalogue.techniques(stage.techniques), 1, examples.kind, teacher, accelerator=accelerator)
        for technique in run.techniques.values():
            technique.prepare(run)
        for technique in run.techniques.values():
            technique.finish(run)
        model = fold(run.model)


def difference(before: object, now: object, path: str = "") -> str:
    """The first place where two recipes differ, as `key.path: old, now new`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                return difference(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (a, b) in enumerate(zip(before, now, strict=True)):
            if a != b:
                return difference(a, b, f"{path}.{index}")
    return f"{path} was {before!r}, is {now!r}"


def begin(recipe: Recipe, out: Path, work: Path, examples: Data) -> None:
    """Make the run's folder: its recipe, and the split that `bantam bench` will measure on."""
    begun = work / "recipe.yaml"
    if begun.exists() and yaml.safe_load(begun.read_text(encoding="utf-8")) != recipe.plain():
        shutil.rmtree(work)
    for leftover in out.parent.glob(f".{out.name}.*.partial"):
        shutil.rmtree(leftover)
    work.mkdir(parents=True, exist_ok=True)
    begun.write_text(yaml.safe_dump(recipe.plain(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    for note in examples.notes:
        say(f"data: {note}")
    say(
        f"data: {len(examples.train):,} train, {len(examples.selection):,} selection, "
        + ", ".join(f"{len(rows):,} {split}" for split, rows in examples.reports.items())
    )
    write_report_split(recipe, work / "test.parquet", examples)


def write_report_split(recipe: Recipe, path: Path, examples: Data) -> None:
    """The last reported split (test before validation) with its columns; classes by name."""
    rows = examples.reports.get("test") or next(iter(examples.reports.values()))
    texts = [text if isinstance(text, tuple) else (text,) for text in rows.texts]
    columns = {name: [text[i] for text in texts] for i, name in enumerate(examples.columns)}
    classes = examples.kind == "classification"
    columns[recipe.task.label] = [examples.labels[y] if classes else float(y) for y in rows.labels]
    pq.write_table(pa.table(columns), path)


def finish(
    recipe: Recipe,
    out: Path,
    examples: Data,
    tutor: Teacher,
    model: nn.Module,
    facts: dict[str, Any],
    accelerator: Accelerator,
    *,
    force: bool,
) -> None:
    """Export, measure against the teacher, and put the artefact in its place."""
    reference = {
        split: torch_logits(tutor.model, tutor.pieces, rows, accelerator) for split, rows in examples.reports.items()
    }
    taught = tutor.artefact.manifest
    identity = {
        "key": tutor.key,
        "model": recipe.teacher.model,
        "parameters": parameters(tutor.model),
        "metrics": taught.metrics,
    }
    package(
        model.cpu(),
        tutor.artefact.root,
        out,
        name=recipe.name,
        encoder=taught.encoder,
        pieces=tutor.pieces,
        data=examples,
        recipe=recipe,
        identity=identity,
        reference=reference,
        accelerator=accelerator,
        facts=facts,
        force=force,
    )


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
