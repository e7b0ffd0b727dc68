"""One stage of a recipe: a model, its techniques and its data through the training loop once."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
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
from compress.technique import Run, Technique
from compress.train import factor, train
from serve.encode import WordPieces

if TYPE_CHECKING:
    from compress.teacher import Teacher


def autocast_for(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """bf16 where asked for, or on `auto` where the hardware multiplies bf16 natively."""
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if native else "fp32"
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")


def run_stage(
    model: nn.Module,
    techniques: dict[str, Technique],
    options: TrainRecipe,
    data: Data,
    pieces: WordPieces,
    accelerator: Accelerator,
    *,
    folder: Path,
    seed: int,
    title: str,
    teacher: "Teacher | None" = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model, plain and in evaluation mode, and {"history", "facts"}.

    `folder` makes it resumable: a checkpoint there is continued, a finished stage is only read.
    """
    done = folder / "done.pt"
    if done.exists():
        content = checkpoint.read(done)
        model.load_state_dict(content.pop("model"))
        return model.to(accelerator.device).eval(), content

    set_seed(seed)
    autocast = autocast_for(options.precision, accelerator.device)
    batches = partial(
        evaluate.batches,
        pieces,
        device=accelerator.device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        size=options.batch_size,
    )
    updates = batches(data.train, accumulate=options.accumulate, seed=seed)
    run = Run(
        model.to(accelerator.device),
        techniques,
        steps=max(1, math.ceil(options.epochs * len(updates))),
        kind=data.kind,
        teacher=teacher.model.to(accelerator.device) if teacher else None,
        schedule=factor(options.schedule, options.warmup),
        accelerator=accelerator,
        autocast=autocast,
    )

    def teacher_logits() -> torch.Tensor:
        return torch.from_numpy(teacher.logits(updates, accelerator, autocast)).to(accelerator.device)

    score = evaluate.scorer(batches(data.selection), data.metric)
    history = train(
        run,
        updates,
        options,
        folder=folder,
        evaluate=score,
        title=title,
        teacher_logits=teacher_logits if teacher else None,
    )
    content = {"history": history, "facts": run.facts}
    if accelerator.is_main_process:
        checkpoint.write(done, {"model": run.model.state_dict(), **content})
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        (folder / "best.pt").unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return run.model, content
