"""What a run is to do, as frozen values: `Recipe` <-> YAML.

A recipe is data. Reading one opens no dataset, loads no model and imports no torch; a key that does not
exist is an error that names the nearest one that does.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.faults import explain
from compress.overlay import assign

RECIPES = Path(__file__).parent / "recipes"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskRecipe(Frozen):
    """Where the examples are and what is asked of them.

    Several datasets are domains of one task: each gives its share of `limit`, and their validation and test splits are
    put together. With `unseen`, a domain that nothing is trained or selected on, its usual test split is reported as
    `test`, and that of `dataset` as `known`.

    `kind: embedding` asks for one vector a text: the examples are pairs of texts with a score of how much they say the
    same, their cosine is held against it, and `metric` is spearman or pearson of the two.
    """

    dataset: str | tuple[str, ...]  # local folder or file, `builtin:film-reviews`, or a Hugging Face hub name
    unseen: str | None = None  # a dataset to report on alone
    config: str | None = None  # of a hub dataset
    train: str | None = None  # split names; None: the usual ones
    validation: str | None = None
    test: str | None = None
    text: tuple[str, ...] = Field(("text",), min_length=1, max_length=2)
    label: str = "label"
    metric: str | None = None  # None: accuracy, or spearman for regression and of cosines
    kind: Literal["auto", "classification", "regression", "embedding"] = "auto"
    pooling: Literal["mean", "first"] | None = None  # of an embedding; None: the teacher's own, else the mean
    normalised: bool = True  # an embedding is made 1 long
    max_length: int = Field(128, ge=4)  # word pieces, special ones included
    selection: float | None = Field(None, gt=0, lt=1)  # share of train to select checkpoints and files on
    limit: int | None = Field(None, gt=0)  # training examples at most
    seed: int | None = None  # of what is carved from train; None: the recipe's

    @model_validator(mode="after")
    def _domains_of_their_own(self) -> Self:
        twice = [name for name in (*self.domains, self.unseen) if (*self.domains, self.unseen).count(name) > 1]
        if not self.domains or twice:
            raise ValueError(
                "task.dataset must name one dataset or several different ones, and task.unseen another, "
                + (f"got {twice[0]} twice" if twice else "got none")
            )
        return self

    @property
    def domains(self) -> tuple[str, ...]:
        """The datasets that are trained on, one or several."""
        return (self.dataset,) if isinstance(self.dataset, str) else self.dataset

    @model_validator(mode="after")
    def _embedding_of_pairs(self) -> Self:
        if self.kind == "embedding" and len(self.text) != 2:
            raise ValueError(
                f"task.kind embedding is judged on pairs: task.text must name two columns, got {list(self.text)}"
            )
        if self.kind != "embedding" and (self.pooling or not self.normalised):
            raise ValueError("task.pooling and task.normalised are for task.kind embedding: leave them out")
        return self


class TrainRecipe(Frozen):
    """One pass of the training loop."""

    epochs: float = Field(3.0, gt=0)
    lr: float = Field(5e-5, gt=0)  # peak
    batch_size: int = Field(32, gt=0)  # examples an update, over all processes and micro-batches
    accumulate: int = Field(1, gt=0)  # micro-batches an update
    dropout: float | None = Field(None, ge=0, lt=1)  # None: the checkpoint's own; 0 is much faster on CPUs
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after the warm-up
    warmup: float = Field(0.1, ge=0, lt=1)  # share of the run
    weight_decay: float = Field(0.01, ge=0)
    max_norm: float = Field(1.0, gt=0)  # of the whole gradient
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware has it
    evaluations: int = Field(4, ge=1)  # on the selection split, the last one at the end
    keep: Literal["best", "last", "better"] = "best"  # of the evaluated weights; better: or those it began with
    checkpoint: int = Field(200, gt=0)  # updates between two checkpoints


class TeacherRecipe(TrainRecipe):
    """The model to imitate: fine-tuned on the task's labels, unless `epochs` is 0."""

    model: str  # local folder, `package:<import name>/<folder>`, or a Hugging Face hub name
    epochs: float = Field(3.0, ge=0)
    seed: int | None = None  # None: the recipe's; with task.seed, all seeds of a student have one teacher
    answers: Literal["torch", "served"] | None = None  # with which logits are made; served: its INT8 file, much faster


class Choice(BaseModel):
    """A name of the catalogue and the fields of what it names."""

    model_config = ConfigDict(frozen=True, extra="allow")
    use: str

    @property
    def fields(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value


class StudentRecipe(Choice):
    """How the student is cut, and from whose weights."""

    start: str | None = None  # a checkpoint; None: what pre-training ends with, or the fine-tuned teacher without it


class StageRecipe(TrainRecipe):
    """One training run of the student: the techniques act in this order."""

    techniques: tuple[Choice, ...] = Field(min_length=1)
    teacher: Literal["fine-tuned", "start"] = "fine-tuned"  # start: a frozen copy of the model as the stage finds it
    # To learn from; None: the task's. A corpus has no labels; augmented: the task's and their copies.
    texts: Literal["task", "corpus", "both", "augmented"] | None = None


class AugmentRecipe(Frozen):
    """Copies of the task's training texts with some words replaced, as in TinyBERT: see `compress.data.augment`.

    What may stand for a word of one word piece is told by a masked language model, for another by word vectors.
    """

    model: str | None = (
        None  # a checkpoint with its language-model head; None: what the first stage of pre-training ends with
    )
    vectors: str | None = None  # a text file as GloVe's: a word and its numbers on each line
    copies: int = Field(20, gt=0)  # of each text, N_a; fewer where two come out the same
    candidates: int = Field(15, gt=0)  # for each word, K
    probability: float = Field(0.4, gt=0, le=1)  # of replacing a word, p_t


class TextsRecipe(Frozen):
    """Texts without labels."""

    dataset: str  # as in TaskRecipe
    config: str | None = None
    split: str | None = None  # None: train
    text: str = "text"
    sentences: bool = False  # each sentence is a text
    limit: int | None = Field(None, gt=0)  # texts at most, drawn at random


class CorpusRecipe(Frozen):
    """Text without labels: for stages that learn from it, for vocabularies, and for pre-training.

    Pre-training takes it as one stream of word pieces cut into sequences; only there the other fields matter.
    """

    texts: tuple[TextsRecipe, ...] = Field(min_length=1)
    max_length: int = Field(128, ge=8)  # word pieces a sequence, special ones included
    masked: float = Field(0.15, gt=0, lt=1)  # share of word pieces to predict
    smoothing: float | None = Field(None, ge=0)  # masks go to a word piece seen n times with odds n ** -smoothing
    held_out: int = Field(256, gt=0)  # sequences that perplexity is measured on, masked without smoothing
    seed: int | None = 0  # of order and masks; None: the recipe's, and then each seed is pre-trained anew


class PretrainingStage(StageRecipe):
    """One run on the corpus: labels are the masked word pieces, the teacher is the model as the stage finds it."""

    teacher: Literal["start"] = "start"
    texts: None = None
    predict: Literal["masked", "all"] | None = None  # positions that have logits; None: the masked ones
    updates: int | None = Field(None, gt=0)  # instead of epochs
    keep: Literal["best", "last"] = "last"
    evaluations: int = Field(2, ge=1)  # of the held-out loss


class ExportRecipe(Frozen):
    """Which INT8 files to try and what they must hold to be served."""

    int8: tuple[Literal["dynamic", "static", "neural-compressor"], ...] = ("dynamic", "static")
    calibration: int = Field(256, gt=0)  # training texts that set activation ranges
    max_drop: float = Field(0.01, ge=0)  # of the selection metric, fp32 to INT8
    opset: int = Field(17, ge=13)


class Recipe(Frozen):
    """teacher -> pre-training on the corpus, if any -> student -> stages -> export, on one task."""

    name: str = Field("student", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    seed: int = 0
    task: TaskRecipe
    teacher: TeacherRecipe
    teachers: tuple[TeacherRecipe, ...] = ()  # beside it, where a technique learns from several; each reads its own way
    augment: AugmentRecipe | None = None
    corpus: CorpusRecipe | None = None
    pretraining: tuple[PretrainingStage, ...] = ()  # of the teacher's checkpoint, before it learns the task
    student: StudentRecipe
    stages: tuple[StageRecipe, ...] = Field(min_length=1)
    export: ExportRecipe = ExportRecipe()

    @model_validator(mode="after")
    def _corpus_where_it_is_read(self) -> Self:
        reading = [f"stages.{at}.texts" for at, stage in enumerate(self.stages) if stage.texts in ("corpus", "both")]
        if reading and len(self.task.text) > 1 and self.task.kind != "embedding":
            raise ValueError(f"{reading[0]}: a corpus holds single texts, and the task has pairs: leave it out")
        reading += ["pretraining"] if self.pretraining else []
        if reading and self.corpus is None:
            raise ValueError(f"{reading[0]} needs a corpus: name its texts under corpus, or leave {reading[0]} out")
        if self.corpus is not None and not (reading or self.reads_corpus):
            raise ValueError("the corpus is read by nothing: give pretraining or a stage's texts, or leave it out")
        if self.pretraining and self.student.start:
            raise ValueError("student.start names a checkpoint, and so does pretraining: leave one of them out")
        return self

    @model_validator(mode="after")
    def _copies_where_they_are_read(self) -> Self:
        reading = [f"stages.{at}.texts" for at, stage in enumerate(self.stages) if stage.texts == "augmented"]
        if reading and self.augment is None:
            raise ValueError(f"{reading[0]} needs to know how: give augment, or leave {reading[0]} out")
        if self.augment is None:
            return self
        if not reading:
            raise ValueError("copies are read by nothing: give a stage texts: augmented, or leave augment out")
        if not (self.augment.model or self.augment.vectors or self.pretraining):
            raise ValueError("augment needs a model, vectors or pretraining: name one of them")
        return self

    @property
    def taught(self) -> "list[Self]":
        """This recipe with each of its teachers as the only one, the first of them `teacher`."""
        alone = self.model_copy(update={"teachers": ()})
        return [alone, *(alone.model_copy(update={"teacher": other}) for other in self.teachers)]

    @property
    def split_seed(self) -> int:
        """Of what is carved from train."""
        return self.seed if self.task.seed is None else self.task.seed

    @property
    def settled_corpus(self) -> CorpusRecipe | None:
        """The corpus with a seed of its own."""
        if self.corpus is None or self.corpus.seed is not None:
            return self.corpus
        return self.corpus.model_copy(update={"seed": self.seed})

    @property
    def reads_corpus(self) -> bool:
        """Whether anything but pre-training looks at the corpus: a stage, or the vocabulary of n-grams."""
        return self.student.use == "ngram" or any(stage.texts in ("corpus", "both") for stage in self.stages)

    @classmethod
    def read(cls, source: str | Path, settings: Sequence[str] = ()) -> Self:
        """The recipe in a YAML file, or of that name among those that come along, with `key.path=value` laid over.

        Raises ValueError naming the file, the key, and what to write instead.
        """
        path = find(source)
        values = mapping(path)
        for setting in settings:
            assign(values, setting)
        return cls.of(values, path.name)

    @classmethod
    def of(cls, values: dict[str, Any], where: str) -> Self:
        """The recipe that nested `values` are; `where` says in errors whence they came."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"recipe {where}: {explain(error, cls)}") from None

    def plain(self) -> dict[str, Any]:
        """Nested dicts and lists, as YAML and JSON write them."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain


def place(name: str) -> str:
    """`name` with `~` and `${VARIABLE}` replaced, so that a recipe needs no paths of one machine.

    Raises ValueError for a variable that is not set.
    """
    if unset := [v for v in re.findall(r"\$\{(\w+)\}", name) if v not in os.environ]:
        raise ValueError(f"{name} needs the environment variable {unset[0]}, which is not set")
    return os.path.expanduser(os.path.expandvars(name))


def find(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    carried = RECIPES / f"{source}.yaml"
    if carried.is_file():
        return carried
    known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
    raise ValueError(f"a recipe must be a YAML file or one of {known}; no such file: {source}")


def mapping(path: Path) -> dict[str, Any]:
    """What the recipe file `path` holds, before it is checked; named after the file unless it says otherwise."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping with task, teacher, student and stages")
    values.setdefault("name", path.stem)
    return values


def digest(value: Any) -> str:
    """A short name for JSON-able content: the same content gives the same name."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
