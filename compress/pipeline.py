"""data -> pre-training, if any -> teacher -> student -> stages -> export -> gate. Read it from top to bottom."""

import copy
import dataclasses
import shutil
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from torch import nn

from compress import candidates, catalogue, corpus, masked
from compress.anatomy import has_blocks
from compress.data.load import Data, Examples, load, unlabelled
from compress.embedder import load_for
from compress.models import check_labels
from compress.package import package
from compress.place import begin, claim, stage_folders
from compress.pretrain import costs as pretraining_costs
from compress.pretrain import first, pretrained
from compress.progress import say
from compress.recipe import Recipe, StageRecipe
from compress.source import Source
from compress.stage import on_task, run_stage
from compress.teacher import Teacher, alone, teachers
from compress.technique import Run
from compress.widths import rebuild, structure
from serve import artefact
from serve.artefact import Artefact


def compress(
    recipe: Recipe, out: Path, *, resume: bool = False, force: bool = False, share: Path | None = None
) -> Artefact:
    """Build the student that `recipe` describes as the artefact `out`.

    What the run needs to go on after a stop lies in `<out>.run`; with `resume` it is continued, and an `out`
    that this very recipe has finished is given back as it is. In the folder `share` the results of all stages but
    the last stay, for other runs that begin with the same ones. Raises ValueError, before any training, for
    whatever in the recipe, its data or its folders a user can mend.
    """
    patient = InitProcessGroupKwargs(timeout=timedelta(days=7))  # the others wait while one exports and measures
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patient])
    if accelerator.num_processes > 1:
        say(f"{accelerator.num_processes} processes share each update")
    student = catalogue.make(recipe.student, catalogue.STUDENTS)
    work = out.with_name(f"{out.name}.run")
    if (finished := claim(recipe, out, work, resume=resume, force=force)) is not None:
        return finished
    examples = load(recipe.task, seed=recipe.split_seed)
    texts = corpus_of(recipe, examples)
    rehearse(recipe, examples, texts, student, accelerator)
    if accelerator.is_main_process:
        begin(recipe, out, work, examples)
    accelerator.wait_for_everyone()

    start = str(pretrained(recipe, accelerator)) if recipe.pretraining else recipe.student.start
    tutor, *others = teachers(recipe, examples, accelerator)
    begun = partial(begun_from, start, tutor, recipe, examples)
    model, pieces = student.begin(Source(begun, tutor.pieces, examples, texts.texts, start, recipe.seed))
    model.requires_grad_(True)
    say(f"student: {parameters(model):,} parameters, the teacher has {parameters(tutor.model):,}")
    facts: dict[str, Any] = {}
    before = [*(pretraining_costs(Path(start)) if start and recipe.pretraining else ()), *costs_of(tutor, others)]
    costs = [cost | {"cached": True} for cost in before]  # made once for all runs that share it
    origin = [tutor.key, Path(start).name if start else None]
    origin += [[other.key for other in others]] if others else []
    origin += [corpus.fingerprint([list(texts.texts)])] if recipe.reads_corpus else []
    more = None
    if recipe.augment is not None:
        speaker = str(first(Path(start))) if start and recipe.pretraining else None
        more = candidates.augmented(recipe, examples, speaker, accelerator)
        origin.append(candidates.fingerprint(more))
    folders = stage_folders(recipe, work, share, origin)
    for number, stage in enumerate(recipe.stages):
        material = partial(
            on_task,
            stage,
            learning(stage, examples, texts, more),
            pieces,
            accelerator,
            seed=recipe.seed + number,
            teacher=tutor if stage.teacher == "fine-tuned" else frozen(model),
            others=others if stage.teacher == "fine-tuned" else (),
        )
        with alone(folders[number], accelerator):
            model, content = run_stage(
                model,
                catalogue.techniques(stage.techniques),
                stage,
                material,
                accelerator,
                folder=folders[number],
                seed=recipe.seed + number,
                title=f"stage {number + 1} of {len(recipe.stages)}",
            )
        facts = content["facts"]  # of the last stage: later training would make earlier ones untrue
        costs.append(content["cost"])
    reference = tutor.reference(recipe.teacher, examples, accelerator)
    if accelerator.is_main_process:
        finish(recipe, out, examples, tutor, others, model, pieces, facts, costs, reference, accelerator, force=force)
        for folder in folders:
            if folder.parent == work:
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return artefact.load(out, verify=False)


def corpus_of(recipe: Recipe, examples: Data) -> Examples:
    """The texts without labels that stages learn from and vocabularies are counted in."""
    if recipe.settled_corpus is None or not recipe.reads_corpus:
        return unlabelled([], examples)
    found = unlabelled([text for part in corpus.read(recipe.settled_corpus) for text in part], examples)
    say(f"corpus: {len(found):,} texts without labels")
    return found


def learning(stage: StageRecipe, examples: Data, corpus: Examples, copies: Examples | None = None) -> Data:
    """`examples`, with the texts that the stage learns from for training."""
    parts = {"corpus": [corpus], "both": [examples.train, corpus]}.get(stage.texts or "task", [examples.train])
    if stage.texts == "augmented":
        assert copies is not None
        parts = [examples.train, copies]
    texts = [text for part in parts for text in part.texts]
    labels = np.concatenate([part.labels for part in parts])
    return dataclasses.replace(examples, train=Examples(texts, labels, max(part.together for part in parts)))


def rehearse(recipe: Recipe, examples: Data, texts: Examples, student: Any, accelerator: Accelerator) -> None:
    """Go through every stage without an update, so that what cannot work is said before hours of training."""
    start = recipe.student.start or (recipe.teacher.model if recipe.pretraining else None)
    check_teachers(recipe)
    begun = partial(pretended, recipe, examples, accelerator)
    model, _ = student.begin(Source(begun, None, examples, texts.texts, start, recipe.seed))
    teacher, *_ = [rehearsed(alone, examples) for alone in recipe.taught]
    walk_through(model, teacher, recipe.stages, examples.kind, accelerator, others=len(recipe.teachers))
    if recipe.augment is not None:
        candidates.check(recipe.augment)


def check_teachers(recipe: Recipe) -> None:
    """ValueError for several teachers where no stage learns from more than one."""
    used = [one for stage in recipe.stages for one in catalogue.techniques(stage.techniques).values()]
    if recipe.teachers and not any("teachers" in one.needs for one in used):
        raise ValueError(
            "teachers names others beside teacher, and no stage learns from several: use distil/ensemble or "
            "distil/cerberus there, or leave teachers out"
        )


def rehearsed(recipe: Recipe, examples: Data) -> nn.Module:
    """The recipe's teacher as it begins. ValueError for one that is not to be trained and has other labels."""
    model, _ = load_for(recipe, examples, recipe.teacher.model)
    if not recipe.teacher.epochs and examples.kind != "embedding":
        check_labels(recipe.teacher.model, examples.labels)
    return model


def pretended(recipe: Recipe, examples: Data, accelerator: Accelerator) -> nn.Module:
    """A model of the shapes that the student's stages will begin with."""
    checkpoint = recipe.student.start or recipe.teacher.model
    model, _ = load_for(recipe, examples, checkpoint)
    if recipe.pretraining:
        encoder, _, _ = masked.load(checkpoint)
        learned: Any = walk_through(encoder, None, recipe.pretraining, "classification", accelerator)
        rebuild(model, structure(learned))
        model.base_model.load_state_dict(learned.lm.base_model.state_dict(), strict=False)  # the pooler may be fresh
    return model


def walk_through(
    model: nn.Module,
    teacher: nn.Module | None,
    stages: Sequence[StageRecipe],
    kind: str,
    accelerator: Accelerator,
    *,
    others: int = 0,
) -> nn.Module:
    """`model` after `prepare` and `finish` of each stage's techniques."""
    for stage in stages:
        chosen = catalogue.techniques(stage.techniques)
        tutored = stage.teacher == "fine-tuned"
        tutor = teacher if tutored else frozen(model)
        run = Run(model, chosen, 1, kind, tutor, others=others if tutored else 0, accelerator=accelerator)
        for who, one in (("student", model), ("teacher", tutor)):
            if run.outputs and one is not None and not has_blocks(one):
                raise ValueError(
                    f"a technique of this stage learns from {', '.join(sorted(run.outputs))}, and this {who} gives "
                    f"nothing but logits: leave it out, or choose another {who}"
                )
        run.prepare()
        run.finish()
        model = run.model
    return model


def begun_from(start: str | None, tutor: Teacher, recipe: Recipe, examples: Data) -> nn.Module:
    """The model that the student is cut from: the checkpoint `start` with a fresh head, or the fine-tuned teacher."""
    if start is None:
        return tutor.model
    set_seed(recipe.seed)
    model, tokenizer = load_for(recipe, examples, start)
    if tokenizer.get_vocab() != tutor.pieces.vocabulary():
        raise ValueError(
            f"student and teacher must read the same word pieces; the tokenizer of {start} differs from "
            f"that of {recipe.teacher.model}: choose a teacher of the same vocabulary"
        )
    return model


def costs_of(tutor: Teacher, others: Sequence[Teacher]) -> list[dict[str, Any]]:
    """What the fine-tuning of all teachers took; one that teaches twice was trained once."""
    return [cost for one in {one.key: one for one in (tutor, *others)}.values() for cost in one.costs]


def frozen(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).eval().requires_grad_(False)


def finish(
    recipe: Recipe,
    out: Path,
    examples: Data,
    tutor: Teacher,
    others: Sequence[Teacher],
    model: nn.Module,
    pieces: Any,
    facts: dict[str, Any],
    costs: list[dict[str, Any]],
    reference: dict[str, np.ndarray],
    accelerator: Accelerator,
    *,
    force: bool,
) -> None:
    """Export, measure against the teacher's answers, and put the artefact in its place."""
    taught = tutor.artefact.manifest
    identity, *beside = [
        {
            "key": one.key,
            "model": wanted.model,
            "parameters": parameters(one.model),
            "metrics": one.artefact.manifest.metrics,
        }
        for one, wanted in zip((tutor, *others), (recipe.teacher, *recipe.teachers), strict=True)
    ]
    identity |= {"others": beside} if beside else {}
    package(
        model.cpu(),
        tutor.artefact.root,
        out,
        name=recipe.name,
        encoder=taught.encoder,
        pieces=pieces,
        data=examples,
        recipe=recipe,
        identity=identity,
        reference=reference,
        accelerator=accelerator,
        facts=facts,
        costs=costs,
        force=force,
    )


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
