"""What a study is to run, as frozen values: `Study` <-> YAML, and the recipe of each of its runs.

    base: recipe.yaml            # beside the study, or what `bantam compress` takes
    baseline: dense              # the arm that the others are compared with
    seeds: [0, 1, 2]
    tasks:
      cola: {task.dataset: cola, task.text: [sentence], task.metric: matthews}
      sst2: {task.dataset: sst2, seeds: [0]}
    arms:
      dense: {}
      sparse:
        stages.0.techniques.1.final: 0.85
        tasks: {cola: {stages.0.lr: 3.0e-5}}

Overrides are the dotted keys that `--set` takes. They are laid over the base in this order, the later one wins:
arm (or the recipe that the arm names), task, the arm's own word on that task, seed.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from compress.faults import explain, nearest
from compress.overlay import lay
from compress.recipe import Frozen, Recipe, digest, find, mapping

NAME = r"^[A-Za-z0-9][\w.-]*$"


class Overrides(BaseModel):
    """Dotted keys of a recipe and their values, beside the keys that have a meaning of their own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _nothing(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _known(self) -> Self:
        own = {"name", "seed"}
        for key in self.settings:
            first = key.split(".")[0]
            if first in own:
                raise ValueError(f"{key!r} is the study's to set; leave it out")
            if first not in Recipe.model_fields:
                known = [*type(self).model_fields, *(name for name in Recipe.model_fields if name not in own)]
                raise ValueError(f"there is no key {key!r}; {nearest(first, known)}")
        return self


class TaskPlan(Overrides):
    seeds: tuple[int, ...] | None = Field(None, min_length=1)  # None: the study's


class Arm(Overrides):
    recipe: str | None = None  # instead of the study's base
    tasks: dict[str, Overrides] = {}


class Study(Frozen):
    """Which recipes to run on which tasks with which seeds, and what to tell of them."""

    name: str = Field("study", pattern=NAME)
    base: str
    baseline: str
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    tasks: dict[str, TaskPlan] = Field(min_length=1)
    arms: dict[str, Arm] = Field(min_length=1)
    measures: tuple[str, ...] = Field(("torch", "int8"), min_length=1)  # keys of the manifest's metrics, one table each
    against: str | None = None  # which of the baseline's measures all others are compared with; None: the same one
    split: Literal["test", "validation"] | None = None  # None: test where a run has it, else validation
    artefacts: Literal["keep-small", "keep-all"] = "keep-small"  # small: of a finished run only its manifest

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"a seed stands there twice: {list(seeds)}")
        return seeds

    @model_validator(mode="after")
    def _names_that_exist(self) -> Self:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline must be one of the arms; {nearest(self.baseline, list(self.arms))}")
        for name, arm in self.arms.items():
            for task in arm.tasks:
                if task not in self.tasks:
                    raise ValueError(f"arms.{name}.tasks: there is no task {task!r}; {nearest(task, list(self.tasks))}")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """The study in a YAML file. Raises ValueError naming the key and what to write instead."""
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader=Unique)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not YAML: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold a mapping with base, baseline, seeds, tasks and arms")
        values.setdefault("name", path.stem)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"study {path.name}: {told(error)}") from None

    def plain(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class Unique(yaml.SafeLoader):  # type: ignore[misc]  # yaml comes without types
    """YAML in which a key that stands twice is an error: PyYAML keeps the last arm of a name and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # `<<: *anchor` brings its own
        seen = [self.construct_object(key, deep=True) for key in keys]
        if twice := next((key for key in seen if seen.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} stands there twice", node.start_mark
            )
        return dict(super().construct_mapping(node, deep))


def told(error: ValidationError) -> str:
    """The first fault; in a check of ours the words are the whole of it."""
    fault = error.errors()[0]
    if fault["type"] != "value_error":
        return explain(error, Study)
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['ctx']['error']}".removeprefix(": ")


@dataclass(frozen=True)
class Job:
    """One arm on one task with one seed."""

    arm: str
    task: str
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.arm}/{self.task}/{self.seed}"

    @property
    def digest(self) -> str:
        """The same for two recipes that do the same: what they leave at its default counts as unsaid, names not at all.

        So a run is found again after Bantam's recipes have learnt new keys.
        """
        return digest(self.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"name"}))

    @property
    def unseeded(self) -> str:
        """The same for all seeds of one arm on one task."""
        return digest(self.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"name", "seed"}))

    @property
    def shares(self) -> frozenset[str]:
        """Names of what the run makes, or waits for, in the cache: two runs with one in common share the work."""
        parts = ("teacher", "task", "seed", "export"), ("teacher", "corpus", "pretraining")
        settled = self.recipe.model_copy(update={"corpus": self.recipe.settled_corpus})
        each = [recipe.model_dump(mode="json", exclude_defaults=True) for recipe in settled.taught]
        made = [(values, parts[0]) for values in each] + [(each[0], parts[1])] * bool(self.recipe.pretraining)
        return frozenset(digest({name: values.get(name) for name in names}) for values, names in made)


def jobs(study: Study, folder: Path) -> list[Job]:
    """Every run of the study, its recipe checked; all arms of a seed before the next seed, so tables fill evenly.

    `folder` is where recipes that the study names are looked for first. Raises ValueError naming arm and task.
    """
    found = []
    for arm_name, arm in study.arms.items():
        base = mapping(find(beside(arm.recipe or study.base, folder)))
        for task_name, task in study.tasks.items():
            values = deepcopy(base)
            for where, settings in layers(arm_name, arm, task_name, task):
                for key, value in settings.items():
                    lay(values, key, deepcopy(value), f"{where}, {key}")
            for seed in task.seeds or study.seeds:
                recipe = Recipe.of(values | {"seed": seed}, f"of arm {arm_name}, task {task_name}")
                found.append(Job(arm_name, task_name, seed, recipe))
    seeds = list(dict.fromkeys(job.seed for job in found))
    tasks = list(study.tasks)
    return sorted(found, key=lambda job: (seeds.index(job.seed), tasks.index(job.task)))


def layers(arm_name: str, arm: Arm, task_name: str, task: TaskPlan) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What is laid over the base, in order, and where each stands in the study."""
    yield f"arms.{arm_name}", arm.settings
    yield f"tasks.{task_name}", task.settings
    if own := arm.tasks.get(task_name):
        yield f"arms.{arm_name}.tasks.{task_name}", own.settings


def beside(name: str, folder: Path) -> str | Path:
    near = folder / name
    return near if near.is_file() else name


def overruled(study: Study) -> Iterator[str]:
    """Settings of an arm that a task takes back: seldom what was meant, so worth a line."""
    for arm_name, arm in study.arms.items():
        for task_name, task in study.tasks.items():
            said = {**arm.settings}
            own = arm.tasks[task_name].settings if task_name in arm.tasks else {}
            for key, value in task.settings.items():
                if key in said and said[key] != value and key not in own:
                    yield (
                        f"arms.{arm_name} says {key}: {said[key]!r}, task {task_name} says {value!r}, which holds; "
                        f"arms.{arm_name}.tasks.{task_name} would hold over both"
                    )
