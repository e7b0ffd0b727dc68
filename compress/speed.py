"""`python -m compress.speed`: updates a second of our loop and of Hugging Face's Trainer, on the same batches.

The arms take turns within one run, so that drift of the machine hits all alike, and each ratio is taken
within a round. On CPUs a second is one of processor time, so that busy neighbours change little:

    trainer     Hugging Face Trainer, plain fine-tuning of the student
    fine-tune   our loop, the same: same weights, batches, padding, precision, optimiser, clipping, schedule
    distil      our loop, distil/logits with the teacher's logits from the cache
    live        our loop, distil/logits with the teacher run on each batch
    mask        distil, with prune/magnitude; the pattern is chosen every 10 updates, as in a run of 1,000
    qat         distil, with quantise/qat; ranges are observed in the first half
    mask + qat  distil, with both
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import set_seed

from compress import evaluate, models
from compress.batches import Batches
from compress.data.load import load
from compress.distil.logits import LogitDistillation
from compress.progress import console
from compress.prune.magnitude import MagnitudePruning
from compress.quantise.qat import QAT
from compress.recipe import Recipe, TrainRecipe
from compress.stage import autocast_for, set_dropout
from compress.students.truncated import Truncated
from compress.supervised import Supervised
from compress.technique import Run, Technique
from compress.train import factor, train
from serve.machine import describe

WARM = 5  # updates before the clock starts
SELECT = 10  # updates between two choices of the pattern
ARMS = ("trainer", "fine-tune", "distil", "live", "mask", "qat", "mask + qat")
RATIOS = {  # what it is: updates a second of one arm over those of another
    "fine-tune / trainer, speed": ("fine-tune", "trainer"),
    "distil / fine-tune, cost": ("fine-tune", "distil"),
    "live / fine-tune, cost": ("fine-tune", "live"),
    "mask / distil, cost": ("distil", "mask"),
    "qat / distil, cost": ("distil", "qat"),
    "mask + qat / distil, cost": ("distil", "mask + qat"),
}


def now() -> float:
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


class Clock(Technique):
    """When each update ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def after_update(self, run: Run) -> None:
        self.times.append(now())


class TrainerClock(TrainerCallback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(now())


class SameBatches(Trainer):
    """A Trainer that takes ready batches, so that neither side pays for the other's tokenising or padding."""

    def __init__(self, batches: Batches, **options: Any) -> None:
        super().__init__(**options)
        self.batches = batches

    def get_train_dataloader(self) -> Any:
        updates = (self.batches.update(step)[0] for step in range(self.args.max_steps))
        return [{k: v for k, v in batch.items() if k != "rows"} for batch in updates]


def rate(times: list[float]) -> float:
    return (len(times) - 1 - WARM) / (times[-1] - times[WARM])


def ours(
    student: nn.Module,
    data: Batches,
    techniques: Sequence[Technique],
    steps: int,
    *,
    teacher: nn.Module,
    logits: Any,
    precision: str,
) -> float:
    """Updates a second of the loop with `techniques`; `logits` None runs the teacher."""
    set_seed(0)
    accelerator, clock = Accelerator(), Clock()
    options = TrainRecipe(precision=precision, evaluations=1, keep="last", checkpoint=10**9, lr=5e-5, warmup=0)
    run = Run(
        copy.deepcopy(student).to(accelerator.device),
        {**{type(technique).__name__: technique for technique in techniques}, "clock": clock},
        steps=steps,
        teacher=teacher.to(accelerator.device),
        schedule=factor(options.schedule, options.warmup),
        accelerator=accelerator,
        autocast=autocast_for(precision, accelerator.device),
    )
    with tempfile.TemporaryDirectory() as folder:
        given = (lambda: logits.to(accelerator.device)) if logits is not None else None
        train(run, data, options, folder=Path(folder), evaluate=lambda _: 0.0, title="speed", teacher_logits=given)
    return rate(clock.times)


def theirs(student: nn.Module, data: Batches, steps: int, *, precision: str) -> float:
    """Updates a second of the Trainer."""
    set_seed(0)
    clock = TrainerClock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            learning_rate=5e-5,
            weight_decay=0.01,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        SameBatches(data, model=copy.deepcopy(student), args=arguments, callbacks=[clock]).train()
    return rate(clock.times)


def pruning(steps: int) -> MagnitudePruning:
    return MagnitudePruning(every=SELECT / steps)


def compare(recipe: Recipe, *, steps: int, rounds: int, precision: str, chosen: Sequence[str] = ARMS) -> dict[str, Any]:
    """Rates of every arm in every round, and the ratios that matter: median, lowest and highest over rounds."""
    accelerator = Accelerator()
    data = load(recipe.task, seed=recipe.split_seed)
    teacher, tokenizer = models.load(recipe.teacher.model, data.labels, recipe.task.max_length)
    teacher.requires_grad_(False)
    stage = recipe.stages[0]
    student = Truncated(**recipe.student.fields).build(teacher).requires_grad_(True)
    set_dropout(student, stage.dropout)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        pieces = models.pieces_of(Path(folder), models.encoder_of(teacher, tokenizer, recipe.task.max_length))
    rows = min(len(data.train), steps * stage.batch_size)
    examples = data.train.take(torch.randperm(len(data.train))[:rows].numpy())
    batches = evaluate.batches(pieces, examples, accelerator.device, size=stage.batch_size)
    with autocast_for(precision, accelerator.device)():
        logits = torch.from_numpy(evaluate.logits(teacher.to(accelerator.device).eval(), batches))
    mine = partial(ours, student, batches, steps=steps, teacher=teacher, precision=precision)
    arms: dict[str, Callable[[], float]] = {
        "trainer": lambda: theirs(student, batches, steps, precision=precision),
        "fine-tune": lambda: mine(techniques=[Supervised()], logits=None),
        "distil": lambda: mine(techniques=[LogitDistillation()], logits=logits),
        "live": lambda: mine(techniques=[LogitDistillation()], logits=None),
        "mask": lambda: mine(techniques=[LogitDistillation(), pruning(steps)], logits=logits),
        "qat": lambda: mine(techniques=[LogitDistillation(), QAT()], logits=logits),
        "mask + qat": lambda: mine(techniques=[LogitDistillation(), pruning(steps), QAT()], logits=logits),
    }
    arms = {name: arms[name] for name in chosen}
    seen: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        turn = list(arms) if number % 2 == 0 else list(reversed(arms))  # no arm is always first
        for name in turn:
            seen[name].append(arms[name]())
            console.print(f"round {number + 1}/{rounds} {name}: {seen[name][-1]:.2f} updates/s", highlight=False)
    ratios = {what: spread(seen[a], seen[b]) for what, (a, b) in RATIOS.items() if a in seen and b in seen}
    settings = {
        "steps": steps,
        "rounds": rounds,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "attention": getattr(student.config, "_attn_implementation", None),
        "tokens": float(batches.lengths.mean()),  # a text
    }
    return {
        "schema": 1,
        "machine": describe(),
        "settings": settings,
        "recipe": recipe.plain(),
        "updates_per_second": seen,
        "ratios": ratios,
    }


def spread(above: list[float], below: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="demo")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    recipe = Recipe.read(options.recipe, options.settings)
    report = compare(
        recipe, steps=options.steps, rounds=options.rounds, precision=options.precision, chosen=options.arms
    )
    text = json.dumps(report, indent=2)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
