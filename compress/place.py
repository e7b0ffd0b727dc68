"""The folders of a run: who may have them, what lies there from the first minute, and where stages keep state."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from compress.data.load import Data
from compress.faults import difference
from compress.progress import say
from compress.recipe import Recipe, digest
from serve import artefact
from serve.artefact import Artefact


def stage_folders(recipe: Recipe, work: Path, share: Path | None, origin: list[Any]) -> list[Path]:
    """Where each stage keeps its state: in `work`, or in `share` under a digest of all that determines its result."""
    folders = [work / f"stage-{number}" for number, _ in enumerate(recipe.stages)]
    if share:
        key = digest([*origin, recipe.student.model_dump(mode="json"), recipe.seed])
        for number, stage in enumerate(recipe.stages[:-1]):
            key = digest([key, stage.model_dump(mode="json", exclude={"checkpoint"}, exclude_none=True)])
            folders[number] = share / key
    return folders


def claim(recipe: Recipe, out: Path, work: Path, *, resume: bool, force: bool) -> Artefact | None:
    """Whether this run may have `out`: the finished artefact if there is nothing to do, None to go ahead."""
    if (out / artefact.MANIFEST).exists() and resume:
        found = artefact.load(out)
        if is_same(found.manifest.recipe, recipe):
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
    if not is_same(before, recipe):
        raise ValueError(
            f"{work} was begun with another recipe: {difference(before, recipe.plain())}; "
            "set it back, choose another --out, or start anew with --force"
        )
    return None


def is_same(before: dict[str, Any], recipe: Recipe) -> bool:
    """Whether what was written down is `recipe`: keys that came since, at their defaults, change nothing."""
    try:
        return Recipe.of(before, "before") == recipe
    except ValueError:
        return False


def begin(recipe: Recipe, out: Path, work: Path, examples: Data) -> None:
    """Make the run's folder: its recipe, and the split that `bantam bench` will measure on."""
    begun = work / "recipe.yaml"
    if begun.exists() and not is_same(yaml.safe_load(begun.read_text(encoding="utf-8")), recipe):
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
    rows = (examples.reports.get("test") or next(iter(examples.reports.values()))).joined()
    texts = [text if isinstance(text, tuple) else (text,) for text in rows.texts]
    columns = {name: [text[i] for text in texts] for i, name in enumerate(examples.columns)}
    classes = examples.kind == "classification"
    columns[recipe.task.label] = [examples.labels[y] if classes else float(y) for y in rows.labels]
    pq.write_table(pa.table(columns), path)
