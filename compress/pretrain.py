"""Stages on a corpus before the task: continued pre-training, and pruning once for all tasks.

Zafrir, Larey, Boudoukh, Shen, Wasserblat 2021, "Prune Once for All: Sparse Pre-Trained Language Models",
https://arxiv.org/abs/2111.05754, section 3: the teacher is prepared on the corpus, the student pruned there with the
prepared teacher as its own, and the result transferred to any number of tasks. Ours has no next-sentence task.

Each stage begins with what the one before ended with, and learns from that if it asks for a teacher. Its result is a
checkpoint in the cache under a digest of all that determines it, so a second task or seed finds it there.
"""

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed

from compress import catalogue, corpus, masked, models
from compress.corpus import Corpus
from compress.masked import MaskedLM
from compress.progress import say
from compress.recipe import CorpusRecipe, PretrainingStage, Recipe, digest
from compress.stage import Material, autocast_for, run_stage
from compress.teacher import alone, weights_digest
from compress.weights import zeros
from serve import cache

REPORT = "pretraining.json"


def keys(recipe: Recipe, texts: list[list[str]]) -> list[str]:
    """The cache's name for the result of each stage."""
    assert recipe.settled_corpus is not None
    source = Path(models.locate(recipe.teacher.model))
    tokenizer = source / "tokenizer.json"
    key = digest(
        {
            "model": weights_digest(str(source)),
            "tokenizer": hashlib.sha256(tokenizer.read_bytes() if tokenizer.exists() else b"").hexdigest(),
            "texts": corpus.fingerprint(texts),
            "corpus": recipe.settled_corpus.model_dump(exclude={"texts"}, exclude_none=True),
        }
    )
    chain = []
    for stage in recipe.pretraining:
        key = digest([key, stage.model_dump(mode="json", exclude={"checkpoint"}, exclude_none=True)])
        chain.append(key)
    return chain


def pretrained(recipe: Recipe, accelerator: Accelerator) -> Path:
    """The folder of the checkpoint that the recipe's pre-training ends with: trained now, or found in the cache."""
    settings = recipe.settled_corpus
    assert settings is not None
    texts = corpus.read(settings)
    chain = keys(recipe, texts)
    folders = [cache.folder() / "pretrained" / key for key in chain]
    finished = max((at for at, folder in enumerate(folders) if (folder / REPORT).exists()), default=-1)
    for at in range(finished + 1, len(folders)):
        with alone(folders[at], accelerator):
            if not (folders[at] / REPORT).exists():
                start = str(folders[at - 1]) if at else recipe.teacher.model
                title = f"pre-training {at + 1} of {len(folders)}"
                train(recipe.pretraining[at], settings, start, texts, folders[at], accelerator, title=title)
    report = json.loads((folders[-1] / REPORT).read_text(encoding="utf-8"))
    say(f"pre-trained {chain[-1]}: perplexity {report['perplexity']:.2f}, zeros {report['sparsity']:.1%}")
    return folders[-1]


def first(folder: Path) -> Path:
    """The checkpoint that the first of the stages ended with of which `folder` is the last one's."""
    before = folder.parent / json.loads((folder / REPORT).read_text(encoding="utf-8"))["start"]
    return first(before) if (before / REPORT).exists() else folder


def costs(folder: Path) -> list[dict[str, Any]]:
    """What the checkpoint in the cache took, stage by stage, and the perplexity that each stage came to."""
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    before = folder.parent / report["start"]  # a checkpoint elsewhere has no report
    chain = costs(before) if (before / REPORT).exists() else []
    return [*chain, report["cost"] | {"perplexity": report["perplexity"]}] if report.get("cost") else chain


def train(
    stage: PretrainingStage,
    recipe: CorpusRecipe,
    start: str,
    texts: list[list[str]],
    folder: Path,
    accelerator: Accelerator,
    *,
    title: str,
) -> None:
    """Run one stage from the checkpoint `start` and write the checkpoint `folder`; a killed attempt is continued."""
    set_seed(recipe.seed)  # of a fresh head
    model, tokenizer, own_head = masked.load(start)
    say(f"{title}: {start}" + ("" if own_head else ", which has no language-model head: a fresh one, tied, is trained"))
    learned, held_out = split(texts, tokenizer, recipe)
    common = {"masked": recipe.masked, "seed": recipe.seed, "device": accelerator.device}
    shares = {"rank": accelerator.process_index, "world": accelerator.num_processes, "accumulate": stage.accumulate}
    score = corpus.scorer(Corpus(held_out, tokenizer, size=64, **common))
    asked = {"smoothing": recipe.smoothing, "every": stage.predict == "all"}
    updates = Corpus(learned, tokenizer, size=stage.batch_size, **common, **asked, **shares)
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    with autocast_for(stage.precision, accelerator.device)():
        before = corpus.perplexity(score(model.to(accelerator.device).eval()))
    work = folder.with_suffix(".run")
    model, content = run_stage(
        model,
        catalogue.techniques(stage.techniques),
        stage,
        lambda: Material(updates, score, teacher=teacher),
        accelerator,
        folder=work,
        seed=recipe.seed,
        title=title,
    )
    if accelerator.is_main_process:
        report = {
            "perplexity_before": before,
            "perplexity": corpus.perplexity(content["history"][-1]["score"]),
            "sparsity": zeros(model),
            "sequences": {"trained": len(learned), "held_out": len(held_out), "length": recipe.max_length},
            "start": start if not Path(start).is_relative_to(cache.folder()) else Path(start).name,
            "stage": stage.model_dump(mode="json"),
            "corpus": recipe.model_dump(mode="json"),
            "history": content["history"],
            "cost": content["cost"],
        }
        write(model, tokenizer, report, folder)
        shutil.rmtree(work)


def split(texts: list[list[str]], tokenizer: Any, recipe: CorpusRecipe) -> tuple[np.ndarray, np.ndarray]:
    """Sequences to learn from, and those held out: the end of each dataset, in proportion to its length."""
    parts = [corpus.sequences(part, tokenizer, recipe.max_length) for part in texts]
    total = sum(len(part) for part in parts)
    if total < 2 * recipe.held_out:
        raise ValueError(
            f"a corpus needs at least twice corpus.held_out ({recipe.held_out}) sequences of {recipe.max_length} word "
            f"pieces; this one has {total}: add text, or lower held_out"
        )
    cuts = [len(part) - round(recipe.held_out * len(part) / total) for part in parts]
    learned = [part[:cut] for part, cut in zip(parts, cuts, strict=True)]
    held_out = [part[cut:] for part, cut in zip(parts, cuts, strict=True)]
    say(f"corpus: {sum(map(len, learned)):,} sequences of {recipe.max_length}, {sum(map(len, held_out)):,} held out")
    return np.concatenate(learned), np.concatenate(held_out)


def write(model: MaskedLM, tokenizer: Any, report: dict[str, Any], folder: Path) -> None:
    """The checkpoint with its report, whole or not at all."""
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    masked.save(model.cpu(), tokenizer, part)
    (part / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
    part.replace(folder)
