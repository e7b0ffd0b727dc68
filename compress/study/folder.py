"""A study on disk: DIR/study.json tells everything, DIR/runs/<digest>/ holds each run.

runs/<digest>/recipe.yaml     what the run does
              run.json        attempts: seconds, peak memory, exit code; sizes of the artefact; the last error
              log.txt         what the run said
              manifest.json   of the finished artefact; there is one when, and only when, the run is finished here
              told.json       what another study.json tells of the run, where it was finished there
              student/        the artefact, where the study keeps them all
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from compress.faults import difference
from compress.study.plan import Job, Study
from serve import artefact

FORMAT = 1
STUDY, RUN, LOG, LOCK, TOLD = "study.json", "run.json", "log.txt", ".lock", "told.json"
STAGES = "stages"  # what runs share that begin alike; gone when the study is whole
DONE, FAILED, STOPPED, PENDING = "done", "failed", "stopped", "pending"


def write_json(path: Path, content: object) -> None:
    """All of it or nothing."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run the study again with --resume") from None
    return dict(content)


def place(out: Path, digest: str) -> Path:
    return out / "runs" / digest


# --- may this study have the folder?


def claim(study: Study, jobs: Sequence[Job], out: Path, *, resume: bool, force: bool) -> list[str]:
    """Make `out` this study's folder, or find that it is; what is new about it, in sentences.

    A study that went on to have other arms, tasks, seeds or measures is taken as it now is: a run is known by the
    digest of its recipe, so nothing is mixed. Only where an arm, task and seed that were begun have another recipe
    now, ValueError says what differs, unless `force` says that they are meant to run anew.
    """
    before = read_json(out / STUDY)
    if not (before or (out / "runs").exists()) and {path.name for path in out.iterdir()} - {LOCK}:
        raise ValueError(f"{out} holds something else than a study; choose another --out")
    if before and not (resume or force):
        raise ValueError(f"{out} holds a study that was begun; continue it with --resume, or choose another --out")
    begun = {(run["arm"], run["task"], run["seed"]): run["digest"] for run in before.get("runs", ())}
    notes = grown(begun, jobs) if begun else []
    changed = [job for job in jobs if begun.get(key(job), job.digest) != job.digest and has_begun(out, begun[key(job)])]
    if changed:
        what = f"{len(changed)} runs have another recipe than when they were begun: {changed[0].name}: "
        what += difference(recipe_of(out, begun[key(changed[0])]), changed[0].recipe.plain())
        if not force:
            raise ValueError(f"{what}; set it back, rename the arm, or run what changed anew with --force")
        notes.append(f"{what}; they run anew")
    for job in jobs:
        begin(out, job)
    return notes


def key(job: Job) -> tuple[str, str, int]:
    return job.arm, job.task, job.seed


def grown(begun: Mapping[tuple[str, str, int], str], jobs: Sequence[Job]) -> list[str]:
    now = {key(job) for job in jobs}
    added, gone = len(now - begun.keys()), len(begun.keys() - now)
    notes = [f"{added} runs are new in the study"] if added else []
    return [*notes, f"{gone} runs are no longer in the study; their folders stay"] if gone else notes


def recipe_of(out: Path, digest: str) -> dict[str, Any]:
    return dict(yaml.safe_load((place(out, digest) / "recipe.yaml").read_text(encoding="utf-8")))


def begin(out: Path, job: Job) -> None:
    """The run's folder. A recipe that lies there stays: it does the same, and the run knows it by its every word."""
    path = place(out, job.digest) / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or not path.stat().st_size:
        path.write_text(yaml.safe_dump(job.recipe.plain(), sort_keys=False, allow_unicode=True), encoding="utf-8")


def has_begun(out: Path, digest: str) -> bool:
    return (place(out, digest) / LOG).exists()


def is_finished(out: Path, digest: str) -> bool:
    return (place(out, digest) / artefact.MANIFEST).exists() or (place(out, digest) / TOLD).exists()


def adopt(source: Path, jobs: Sequence[Job], out: Path) -> int:
    """Take what the study.json `source` tells of finished runs of the same recipes; how many were new here.

    Raises ValueError where it is not one.
    """
    content = read_json(source)
    if content.get("format") != FORMAT or not isinstance(content.get("runs"), list):
        raise ValueError(f"{source} must be a study.json of format {FORMAT}; `bantam study` writes it beside its runs")
    finished = {run["digest"]: run for run in content["runs"] if run["status"] == DONE}
    wanted = [digest for digest in {job.digest: job for job in jobs} if digest in finished]
    new = [digest for digest in wanted if not is_finished(out, digest)]
    for digest in new:
        write_json(place(out, digest) / TOLD, finished[digest])
    return len(new)


# --- one run


def record(out: Path, digest: str, attempt: dict[str, Any], *, error: str | None = None) -> None:
    """Put one more attempt into the run's own record; `error` is None where it succeeded or was only stopped."""
    path = place(out, digest) / RUN
    found = read_json(path) or {"attempts": []}
    found["attempts"].append(attempt)
    found["error"] = error
    write_json(path, found)


def settle(out: Path, digest: str, *, keep: str) -> None:
    """Take sizes and manifest from the finished artefact; then, unless all is kept, remove it and its work."""
    folder = place(out, digest)
    made = artefact.load(folder / "student", verify=keep == "keep-all")
    found = read_json(folder / RUN) or {"attempts": []}
    models = made.manifest.models
    found["bytes"] = {"artefact": made.size(), "files": {name: made.path(name).stat().st_size for name in models},
                      "served": {name: made.served_size(name) for name in models}}  # fmt: skip
    write_json(folder / RUN, found)
    part = folder / f"{artefact.MANIFEST}.part"
    shutil.copy(made.root / artefact.MANIFEST, part)
    part.replace(folder / artefact.MANIFEST)
    if keep == "keep-small":
        shutil.rmtree(made.root)
        shutil.rmtree(folder / "student.run", ignore_errors=True)


def told(out: Path, job: Job) -> dict[str, Any]:
    """The run as study.json has it."""
    folder = place(out, job.digest)
    mine = read_json(folder / RUN)
    attempts = mine.get("attempts", [])
    row: dict[str, Any] = {"arm": job.arm, "task": job.task, "seed": job.seed, "digest": job.digest}
    if (folder / TOLD).exists():
        return read_json(folder / TOLD) | row
    if not is_finished(out, job.digest):
        status = FAILED if mine.get("error") else STOPPED if has_begun(out, job.digest) else PENDING
        return row | {"status": status} | ({"error": mine["error"]} if mine.get("error") else {})
    manifest = artefact.Manifest.model_validate(read_json(folder / artefact.MANIFEST))
    provenance = manifest.provenance
    machine = provenance.get("machine", {})
    return row | {
        "status": DONE,
        "metric": manifest.task.metric,
        "metrics": {split: of_teacher(manifest, split) | found for split, found in manifest.metrics.items()},
        "served": manifest.served,
        "methods": {name: model.method for name, model in manifest.models.items()},
        "candidates": manifest.candidates,
        "sparsity": manifest.sparsity,
        "bytes": mine.get("bytes", {}),
        "teacher": manifest.teacher.get("key"),
        "data": provenance.get("data"),
        "cost": provenance.get("cost"),
        "seconds": round(sum(attempt["seconds"] for attempt in attempts), 1),
        "peak_bytes": max((attempt["peak_bytes"] for attempt in attempts), default=0),
        "attempts": len(attempts),
        "machine": {name: machine.get(name) for name in ("cpu", "usable_cores", "flags", "versions")},
        "commit": machine.get("commit"),
    }


def of_teacher(manifest: artefact.Manifest, split: str) -> dict[str, Any]:
    """`teacher_int8`: what the teacher's own INT8 file has on that split, the dense twin of a student's."""
    own = manifest.teacher.get("metrics", {}).get(split, {})
    return {"teacher_int8": own["int8"]} if "int8" in own else {}


def write_study(study: Study, jobs: Sequence[Job], out: Path, machine: Mapping[str, Any]) -> dict[str, Any]:
    """DIR/study.json from what lies in the runs' folders; also its content. `machine` is where the study runs now."""
    runs = [told(out, job) for job in jobs]
    content = {
        "format": FORMAT,
        "study": study.plain(),
        "machine": machine,
        "notes": [*other_data(jobs, runs)],
        "runs": runs,
    }
    write_json(out / STUDY, content)
    return content


def other_data(jobs: Sequence[Job], runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Runs that ask for the same data and were given other texts or labels: a file changed between them."""
    seen: dict[str, Mapping[str, Any]] = {}
    for job, run in zip(jobs, runs, strict=True):
        if run["status"] == DONE:
            first = seen.setdefault(f"{job.recipe.task.model_dump_json()} {job.seed}", run)
            if first["data"] != run["data"]:
                other = f"{first['arm']}/{first['task']}/{first['seed']}"
                yield f"{job.name} had other data than {other}: the dataset changed between them; do not compare them."
