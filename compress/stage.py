"""One stage of a recipe: a model, its techniques and its data through the training loop once."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from compress import checkpoint, evaluate
from compress.data.load import Data
from compress.recipe import TrainRecipe
from compress.technique import COSTS, Run, Technique
from compress.train import Evaluate, Updates, factor, train
from compress.widths import rebuild, structure
from serve.encode import WordPieces

if TYPE_CHECKING:
    from compress.teacher import Teacher


def autocast_for(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """bf16 where asked for, or on `auto` where the hardware multiplies bf16 natively."""
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if native else "fp32"
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")


@dataclass(frozen=True)
class Material:
    """What a stage trains on, is scored with and learns from."""

    updates: Updates
    score: Evaluate
    kind: str = "classification"
    teacher: nn.Module | None = None
    teacher_logits: Callable[[], torch.Tensor] | None = None  # [N, C] for every row of `updates`
    others_logits: tuple[Callable[[], torch.Tensor], ...] = ()  # the same of each other teacher


def run_stage(
    model: nn.Module,
    techniques: dict[str, Technique],
    options: TrainRecipe,
    material: Callable[[], Material],
    accelerator: Accelerator,
    *,
    folder: Path,
    seed: int,
    title: str,
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model, plain and in evaluation mode, and {"history", "facts", "cost"}.

    `folder` makes it resumable: a checkpoint there is continued, a finished stage is only read, and then
    `material` is not asked for.
    """
    done = folder / "done.pt"
    if done.exists():
        content = checkpoint.read(done)
        if wanted := content.pop("structure", None):  # runs begun before 0.3 have none
            rebuild(model, wanted)
        model.load_state_dict(content.pop("model"))
        content.setdefault("cost", {"stage": title})  # a stage that an older Bantam finished did not count
        return model.to(accelerator.device).eval(), content

    set_seed(seed)
    given = material()
    run = Run(
        set_dropout(model.to(accelerator.device), options.dropout),
        techniques,
        steps=updates_of(options, len(given.updates)),
        kind=given.kind,
        teacher=given.teacher.to(accelerator.device) if given.teacher else None,
        others=len(given.others_logits),
        schedule=factor(options.schedule, options.warmup),
        accelerator=accelerator,
        autocast=autocast_for(options.precision, accelerator.device),
    )
    history = train(
        run,
        given.updates,
        options,
        folder=folder,
        evaluate=given.score,
        title=title,
        teacher_logits=given.teacher_logits,
        others_logits=given.others_logits,
    )
    content = {"history": history, "facts": run.facts, "cost": cost(run, title)}
    if accelerator.is_main_process:
        whole = {"model": run.model.state_dict(), "structure": structure(run.model)}
        checkpoint.write(done, {**whole, **content})
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        (folder / "best.pt").unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return run.model, content


def updates_of(options: TrainRecipe, epoch: int) -> int:
    """Updates in the whole stage, where an epoch has `epoch` of them."""
    asked = getattr(options, "updates", None)
    return asked or max(1, math.ceil(options.epochs * epoch))


def cost(run: Run, title: str) -> dict[str, Any]:
    """What the stage took: updates, examples through each model, seconds; the processes' shares are about equal."""
    examples = {name: round(run.cost[name]) * run.accelerator.num_processes for name in COSTS if name != "seconds"}
    return {"stage": title, "updates": run.steps, **examples, "seconds": round(run.cost["seconds"], 3)}


def set_dropout(model: nn.Module, share: float | None) -> nn.Module:
    """`model` with all its dropout at `share`, or as it is for None; its config keeps the checkpoint's own."""
    for module in model.modules() if share is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = share
        if hasattr(module, "dropout_prob"):  # attention through torch's fused kernel
            module.dropout_prob = share
    return model


def on_task(
    options: TrainRecipe,
    data: Data,
    pieces: WordPieces,
    accelerator: Accelerator,
    *,
    seed: int,
    teacher: "Teacher | nn.Module | None" = None,
    others: Sequence["Teacher"] = (),
) -> Material:
    """The task's own texts and labels; a `Teacher` answers from its cache where logits are all that is asked.

    `others` stand beside a teacher that is one.
    """
    batches = partial(
        evaluate.batches,
        pieces,
        device=accelerator.device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        size=options.batch_size,
    )
    updates = batches(data.train, accumulate=options.accumulate, seed=seed)
    score = evaluate.scorer(batches(data.selection), data.metric, data.selection.texts)
    if teacher is None or isinstance(teacher, nn.Module):
        return Material(updates, score, data.kind, teacher)

    def logits_of(teacher: "Teacher") -> torch.Tensor:
        autocast = autocast_for(options.precision, accelerator.device)
        return torch.from_numpy(teacher.logits(data.train, accelerator, autocast)).to(accelerator.device)

    asked = [partial(logits_of, one) for one in (teacher, *others)]
    return Material(updates, score, data.kind, teacher.model, asked[0], tuple(asked[1:]))
