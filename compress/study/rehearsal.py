"""Go through what a study is about to run, without an update: `python -m compress.study.rehearsal` as a child.

A process of its own, because a study that waits for days should not hold torch in memory meanwhile.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from compress.recipe import Recipe
from compress.study.plan import Job


def rehearse(jobs: Sequence[Job]) -> list[str]:
    """What is wrong with each of these runs that cannot work, as "arm/task: fault".

    Data is read, and every technique prepares and finishes on the model that it is to train.
    """
    asked = [{"name": f"{job.arm}/{job.task}", "recipe": job.recipe.plain()} for job in jobs]
    command = [sys.executable, "-m", "compress.study.rehearsal"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    if done.returncode < 0:  # a signal: Ctrl-C reaches child and parent alike
        raise KeyboardInterrupt("nothing was trained")
    if done.returncode:
        print(done.stderr, file=sys.stderr)  # a fault of ours has its traceback there
        raise ValueError(f"the rehearsal of the study broke off: {(done.stderr.strip() or '?').splitlines()[-1]}")
    return [str(fault) for fault in json.loads(done.stdout.splitlines()[-1])]


def faults(asked: Sequence[dict[str, Any]]) -> list[str]:
    """As `rehearse`, in this process."""
    import torch
    from accelerate import Accelerator

    from compress import catalogue, pipeline
    from compress.data.load import load

    accelerator, data = Accelerator(cpu=not torch.cuda.is_available()), dict[str, Any]()
    found = []
    for one in asked:
        recipe = Recipe.model_validate(one["recipe"])
        try:
            student = catalogue.make(recipe.student, catalogue.STUDENTS)
            key = f"{recipe.task.model_dump_json()} {recipe.split_seed}"
            if key not in data:
                data.clear()  # jobs come task by task
                data[key] = load(recipe.task, seed=recipe.split_seed)
            texts = pipeline.corpus_of(recipe, data[key])
            pipeline.rehearse(recipe, data[key], texts, student, accelerator)
        except (ValueError, OSError) as error:
            found.append(f"{one['name']}: {error}")
    return found


if __name__ == "__main__":
    print(json.dumps(faults(json.load(sys.stdin))))
