"""Run a study: every run once, several at once, a finished one never again."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.study import folder
from compress.study.children import GIB, Limits, execute
from compress.study.plan import Job, Study, jobs, overruled
from compress.study.rehearsal import rehearse
from compress.study.watch import Changed, Watch, say


def run_study(
    source: Path,
    out: Path,
    *,
    resume: bool = False,
    force: bool = False,
    known: Path | None = None,
    at_once: int = 1,
    spare: float = 2.0,
    changed: Changed = lambda content: None,
) -> dict[str, Any]:
    """Run the study in the file `source` in the folder `out`; the content of its study.json.

    `known` is a study.json whose finished runs of the same recipes are taken as it tells them. `at_once` runs share the
    cores; another one is begun only while `spare` GiB of memory stay free. `changed` is called with that content
    whenever a run is over. Raises ValueError before any training for what a user can mend, and at the end when runs
    failed; KeyboardInterrupt when a signal came, after the runs saved.
    """
    study = Study.read(source)
    planned = jobs(study, source.parent)
    with held(out) as lock:
        for note in [*overruled(study), *folder.claim(study, planned, out, resume=resume, force=force)]:
            say(f"note: {note}")
        if known is not None:
            say(f"note: {folder.adopt(known, planned, out)} runs are taken from {known}")
        distinct = [*{job.digest: job for job in reversed(planned)}.values()][::-1]  # the first arm of those that share
        left = [job for job in distinct if not folder.is_finished(out, job.digest)]
        say(summary(planned, distinct, left))
        rehearse_all(left, {job.unseeded for job in planned if folder.has_begun(out, job.digest)})
        watch = Watch(study, planned, out, changed, at_once=at_once)
        watch.tell()
        limits = Limits(at_once, max(1, cores() // at_once), int(spare * GIB))
        whole = execute(left, out, limits, watch, lock=lock)
    if not whole:
        raise KeyboardInterrupt(f"{watch.done} of {watch.total} runs are finished; --resume continues there")
    shutil.rmtree(out / folder.STAGES, ignore_errors=True)  # what runs shared while there were more to come
    check_all_done(watch.content, out)
    return watch.content


@contextmanager
def held(out: Path) -> Iterator[int]:
    """`out` is ours alone while the block runs, and while a child lives that inherited the lock."""
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out / folder.LOCK, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield handle
    except BlockingIOError:
        raise ValueError(f"a study is running in {out}; wait for it, or stop it and its runs") from None
    finally:
        os.close(handle)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def summary(planned: Sequence[Job], distinct: Sequence[Job], left: Sequence[Job]) -> str:
    arms, tasks = len({job.arm for job in planned}), len({job.task for job in planned})
    words = f"study: {arms} arms x {tasks} tasks, {len(planned)} runs"
    if shared := len(planned) - len(distinct):
        words += f", {shared} of them the same as another one and run once"
    return f"{words}; {len(distinct) - len(left)} finished, {len(left)} to go"


def rehearse_all(left: Sequence[Job], begun: set[str]) -> None:
    """ValueError if some arm cannot work on some task; one seed is tried of each, and none of what has begun once."""
    each = {job.unseeded: job for job in reversed(left) if job.unseeded not in begun}.values()
    if not each:
        return
    say(f"rehearsing {len(each)} recipes, without training")
    if found := rehearse(sorted(each, key=lambda job: job.task)):
        more = f" (and {len(found) - 1} more: {', '.join(fault.split(': ')[0] for fault in found[1:])})"
        raise ValueError(f"nothing was trained, since {found[0]}{more if len(found) > 1 else ''}")


def check_all_done(content: dict[str, Any], out: Path) -> None:
    """ValueError that names the first run that failed."""
    if failed := [run for run in content["runs"] if run["status"] != folder.DONE]:
        one = failed[0]
        raise ValueError(
            f"{len(failed)} of {len(content['runs'])} runs failed, the first is "
            f"{one['arm']}/{one['task']}/{one['seed']}: {one['error']} "
            f"(log: {folder.place(out, one['digest']) / folder.LOG}); --resume tries them again"
        )
