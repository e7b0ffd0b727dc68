"""The training loop: every moment of `Technique` in plain sight, around it checkpoints and evaluation."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from compress import checkpoint
from compress.interrupt import Interrupts
from compress.progress import Progress
from compress.recipe import TrainRecipe
from compress.rows import AdamW, is_by_rows, values
from compress.technique import Batch, Run

Evaluate = Callable[[nn.Module], float]  # higher is better


class Updates(Protocol):
    """Training examples, update by update, as a pure function of the update's number."""

    def __len__(self) -> int: ...  # updates in one epoch
    def rows(self, step: int, /) -> np.ndarray: ...  # examples of update `step`, over all processes
    def update(self, step: int, /) -> list[Batch]: ...  # this process's micro-batches of it


def factor(schedule: str, warmup: float) -> Callable[[float], float]:
    """progress -> learning-rate factor: linear warm-up from 0, then the named decay to 0 (or none)."""
    decay = {
        "linear": lambda rest: 1 - rest,
        "cosine": lambda rest: 0.5 * (1 + math.cos(math.pi * rest)),
        "constant": lambda rest: 1.0,
    }[schedule]

    def at(progress: float) -> float:
        return progress / warmup if progress < warmup else decay((progress - warmup) / (1 - warmup))

    return at


def adamw(run: Run, options: TrainRecipe) -> torch.optim.Optimizer:
    """AdamW over what trains; no decay of biases and normalisations, nor of tables that are trained by rows."""
    trainable = [p for m in (run.model, run.owned) for p in m.parameters() if p.requires_grad]
    decays = [p.ndim >= 2 and not is_by_rows(p) for p in trainable]
    groups = [
        {"params": [p for p, it in zip(trainable, decays, strict=True) if it], "weight_decay": options.weight_decay},
        {"params": [p for p, it in zip(trainable, decays, strict=True) if not it], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=options.lr)


def train(
    run: Run,
    data: Updates,
    options: TrainRecipe,
    *,
    folder: Path,
    evaluate: Evaluate,
    title: str,
    teacher_logits: Callable[[], Tensor] | None = None,
    others_logits: Sequence[Callable[[], Tensor]] = (),
) -> list[dict[str, float]]:
    """Train `run.model` for `run.steps` updates; leave it a plain module in evaluation mode.

    `folder` holds the checkpoint; one that is there is continued. `teacher_logits` gives them for every
    training row, and is asked only if no technique wants more of the teacher; `others_logits` give those of the
    other teachers. Returns the history: a row of loss terms and selection score for each evaluation. Raises
    KeyboardInterrupt after saving when a signal came.
    """
    began = time.monotonic()
    run.score, run.sample = partial(score, run, evaluate), partial(sample, data)
    run.prepare()
    if run.needs_only_logits and teacher_logits:
        run.teacher_logits = teacher_logits()
        run.cost["teacher"] += len(run.teacher_logits)  # once per row; from the cache or not, the run needs them
    if "teachers" in run.needs and others_logits:
        run.others_logits = torch.stack([ask() for ask in others_logits], 1)
        run.cost["teacher"] += run.others_logits[..., 0].numel()
    run.optimizer = adamw(run, options)
    saved, best = folder / "checkpoint.pt", folder / "best.pt"
    past = checkpoint.load(run, saved) if saved.exists() else {}
    history: list[dict[str, float]] = past.get("history", [])
    run.cost = Counter(past.get("cost", run.cost))
    began -= run.cost["seconds"]
    due = {round(run.steps * k / options.evaluations) for k in range(1, options.evaluations + 1)} - {0}
    weights = [p for group in run.optimizer.param_groups for p in group["params"]]
    run.model.train()

    def judge() -> None:
        history.append({"step": run.step, "score": run.score(run.model), **run_terms(run)})
        progress.evaluated(history[-1])
        if options.keep != "last" and leads(run, history) and run.accelerator.is_main_process:
            checkpoint.write(best, {"step": run.step, "model": run.model.state_dict()})

    with Interrupts(run.accelerator) as interrupts, Progress(title, run, options.batch_size) as progress:
        if options.keep == "better" and not history:
            judge()
        while run.step < run.steps:
            update(run, data, weights, options)
            run.cost["seconds"] = time.monotonic() - began
            progress.advance()
            if run.step in due:
                judge()
            stop = interrupts.agreed()
            if run.step % options.checkpoint == 0 or run.step == run.steps or stop:
                checkpoint.save(run, saved, history=history, cost=dict(run.cost))
            if stop:
                raise KeyboardInterrupt(f"{run.step} of {run.steps} updates are saved; --resume continues there")

    run.accelerator.wait_for_everyone()
    if options.keep != "last":
        run.model.load_state_dict(checkpoint.read(best)["model"])
    run.finish()
    return history


def leads(run: Run, history: list[dict[str, float]]) -> bool:
    """Whether the last evaluation is the best of those that count: before, the model was still being pruned."""
    counts = [row["score"] for row in history if row["step"] / run.steps >= run.settled]
    return run.progress >= run.settled and history[-1]["score"] >= max(counts)


def update(run: Run, data: Updates, weights: list[nn.Parameter], options: TrainRecipe) -> None:
    """One update of the weights: gradient, clip, step, with the moments of each technique between."""
    run.batches, run.rows = data.update(run.step), len(data.rows(run.step))
    for group in run.optimizer.param_groups:
        group["lr"] = options.lr * run.schedule(run.progress)
    for technique in run.techniques.values():
        technique.before_backward(run)
    run.backward()
    for technique in run.techniques.values():
        technique.before_update(run)
    clipped_step(run.optimizer, weights, options.max_norm)
    run.step += 1
    for technique in run.techniques.values():
        technique.after_update(run)


def clipped_step(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], max_norm: float) -> None:
    """What `clip_grad_norm_` and `step` do, without a pass of its own over all gradients to shrink them.

    The fused optimiser divides by `grad_scale` as it reads; it is torch's door for loss scaling.
    """
    norm = nn.utils.get_total_norm([values(w.grad) for w in weights if w.grad is not None])
    optimizer.grad_scale = (norm / max_norm).clamp(min=1.0)
    optimizer.found_inf = torch.zeros_like(optimizer.grad_scale)
    optimizer.step()


def score(run: Run, evaluate: Evaluate, model: nn.Module) -> float:
    model.eval()
    try:
        with run.autocast():
            return evaluate(model)
    finally:
        model.train()


def sample(data: Updates, examples: int) -> Iterator[Batch]:
    """Micro-batches of the first updates, until all processes have seen `examples` rows or the epoch ends."""
    seen = 0
    for step in range(len(data)):
        if seen < examples:
            yield from data.update(step)
            seen += len(data.rows(step))


def run_terms(run: Run) -> dict[str, float]:
    return {f"loss/{name}": round(value.item(), 6) for name, value in run.terms.items()}
