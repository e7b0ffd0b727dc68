"""Save and restore everything a run needs to go on to bit-identical weights.

One file, written beside and renamed, so a crash at any moment leaves the older one whole. It is a
private file of one run, never part of an artefact.
"""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from compress.technique import Run


def write(path: Path, content: dict[str, Any]) -> None:
    """Put tensors and plain values into `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError of its own
        part.unlink(missing_ok=True)
        why = getattr(error, "strerror", None) or "the disk may be full"
        raise ValueError(f"{path} could not be written ({why}); free space there and run with --resume") from error


def read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise ValueError(f"{path} is damaged ({type(error).__name__}); delete it to start this stage anew") from error


def randomness() -> dict[str, Any]:
    """The state of every generator a run may draw from, as values that load without pickle's powers."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_randomness(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def save(run: Run, path: Path, **extra: Any) -> None:
    """Called by every process at the same update; the first one writes."""
    states = gather_object([randomness()])
    if run.accelerator.is_main_process:
        content = {
            "step": run.step,
            "model": run.model.state_dict(),
            "owned": run.owned.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "randomness": states,
            **extra,
        }
        write(path, content)
    run.accelerator.wait_for_everyone()


def load(run: Run, path: Path) -> dict[str, Any]:
    """Set `run` to where `save` left it, after `prepare`; give back what was saved beside it."""
    content = read(path)
    states = content.pop("randomness")
    if len(states) != run.accelerator.num_processes:
        raise ValueError(
            f"{path} comes from {len(states)} processes; resume with as many, not {run.accelerator.num_processes}"
        )
    run.model.load_state_dict(content.pop("model"))
    run.owned.load_state_dict(content.pop("owned"))
    run.optimizer.load_state_dict(content.pop("optimizer"))
    run.step = content.pop("step")
    restore_randomness(states[run.accelerator.process_index])
    return content
