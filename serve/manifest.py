"""What an artefact's manifest.json says: frozen values, checked on reading."""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FORMAT: Literal[1] = 1
PACKED: Literal[2] = 2  # the format of an artefact for downloading, see serve.packing
MANIFEST = "manifest.json"
MOST_WORDS = 65_536  # of a text that n-grams take, so that no sum of them overflows
PICKLES = (".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth", "pytorch_model.bin")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Frozen):
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)  # bytes


class Embedding(Frozen):
    """What the model makes of a text: one vector."""

    size: int = Field(ge=1)  # numbers
    pooling: Literal["mean", "first"]  # over all tokens, or the first one's
    normalised: bool = True  # to length 1


class Task(Frozen):
    kind: Literal["classification", "regression", "embedding"]
    inputs: Literal[1, 2]  # texts an example: a single text or a pair
    labels: tuple[str, ...] = ()  # ("score",) for regression, none for an embedding
    metric: str
    columns: tuple[str, ...] = ()
    embedding: Embedding | None = None

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for a text."""
        return self.embedding.size if self.embedding else len(self.labels)

    @model_validator(mode="after")
    def consistent(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels are not distinct: {list(self.labels)}")
        if (self.kind == "embedding") != (self.embedding is not None):
            raise ValueError(f"kind is {self.kind!r}, but embedding is {self.embedding}")
        if self.kind == "embedding" and (self.labels or self.inputs != 1):
            raise ValueError(f"an embedding has no labels and one text, got {list(self.labels)} and {self.inputs}")
        if self.kind == "regression" and len(self.labels) != 1:
            raise ValueError(f"regression has one label, got {list(self.labels)}")
        if self.kind == "classification" and len(self.labels) < 2:
            raise ValueError(f"classification needs two labels or more, got {list(self.labels)}")
        if self.columns and len(self.columns) != self.inputs:
            raise ValueError(f"{self.inputs} inputs but columns {list(self.columns)}")
        return self


class Encoder(Frozen):
    kind: Literal["wordpiece", "ngram"]
    file: str = "tokenizer.json"  # of n-grams the whole model
    max_length: int  # tokens, special ones included; of n-grams words
    pad_id: int = Field(default=0, ge=0)
    inputs: tuple[str, ...] = ()  # names of the ONNX inputs, in order; those of n-grams are always the same

    @model_validator(mode="after")
    def consistent(self) -> Self:
        if self.kind == "wordpiece" and not self.inputs:
            raise ValueError("inputs are empty: word pieces need the names of the ONNX inputs")
        if self.kind == "ngram" and (self.inputs or self.pad_id):
            raise ValueError(f"n-grams have neither inputs nor pad_id, got {list(self.inputs)} and {self.pad_id}")
        if self.kind == "wordpiece" and self.max_length < 3:
            raise ValueError(f"max_length must be 3 tokens or more, got {self.max_length}")
        if self.kind == "ngram" and not 1 <= self.max_length <= MOST_WORDS:
            raise ValueError(f"max_length must be 1 to {MOST_WORDS} words, got {self.max_length}")
        return self


class Model(Frozen):
    path: str
    precision: Literal["fp32", "int8"]
    method: str  # "export", "dynamic", "static", "pt2e", "qat"
    batch: int = Field(default=8, ge=1)  # texts a run at most; 1 where answers would depend on batch mates
    integer_kernels: int = Field(default=0, ge=0)
    float_kernels: int = Field(default=0, ge=0)  # MatMul-like nodes in onnxruntime's optimised graph


class Manifest(Frozen):
    format: Literal[1] = FORMAT
    name: str = Field(min_length=1)
    created: str
    task: Task
    encoder: Encoder
    models: dict[str, Model] = Field(min_length=1)
    served: str  # the key of `models` that is served by default
    files: dict[str, FileEntry] = {}  # every file but the manifest, by posix relative path
    recipe: dict[str, Any] = {}
    teacher: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    sparsity: dict[str, float] = {}
    candidates: list[dict[str, Any]] = []
    provenance: dict[str, Any] = {}

    @field_validator("files")
    @classmethod
    def safe_files(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for path in files:
            check_relative(path)
            if path == MANIFEST:
                raise ValueError(f"{MANIFEST} cannot list itself")
            if path.endswith(PICKLES):
                raise ValueError(f"{path!r} is a pickle, which can run any code; an artefact may hold none")
        return files

    @model_validator(mode="after")
    def known_names(self) -> Self:
        if self.served not in self.models:
            raise ValueError(f"served is {self.served!r}, but models are {sorted(self.models)}")
        for path in self.needed():
            check_relative(path)
            if self.files and path not in self.files:
                raise ValueError(f"{path!r} is used but is not among files")
        return self

    def needed(self) -> tuple[str, ...]:
        """Paths of the files that the manifest itself refers to."""
        return (self.encoder.file, *(model.path for model in self.models.values()))


class Packed(FileEntry):
    """An ONNX file (its sha256 and size) that a container unpacks to."""

    container: str  # the file that lies in its stead


class PackedManifest(Manifest):
    """An artefact for downloading: `models` names files that are there only once it is unpacked."""

    format: Literal[2] = PACKED  # type: ignore[assignment]
    packed: dict[str, Packed] = Field(min_length=1)  # by the path that it unpacks to
    storage: dict[str, Any] = {}  # sizes and ratios by model, see serve.packing.ratios

    @field_validator("packed")
    @classmethod
    def safe_packed(cls, packed: dict[str, Packed]) -> dict[str, Packed]:
        cls.safe_files({**packed})
        return packed

    @model_validator(mode="after")
    def one_file_a_path(self) -> Self:
        both = sorted(self.packed.keys() & self.files.keys())
        if both:
            raise ValueError(f"{both[0]!r} is among files and unpacked as well")
        return self

    def needed(self) -> tuple[str, ...]:
        there = (path for path in super().needed() if path not in self.packed)
        return (*there, *(entry.container for entry in self.packed.values()))

    def unpacked(self) -> Manifest:
        """What the artefact says of itself once it is unpacked."""
        containers = {entry.container for entry in self.packed.values()}
        files = {path: entry for path, entry in self.files.items() if path not in containers}
        files |= {path: FileEntry(sha256=entry.sha256, size=entry.size) for path, entry in self.packed.items()}
        content = self.model_dump(exclude={"format", "packed", "storage", "files"})
        return Manifest.model_validate({**content, "files": dict(sorted(files.items()))})


def check_relative(path: str) -> None:
    """ValueError unless `path` is a plain posix path that stays below its root."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} is not a plain path inside the artefact")


def first_complaint(error: ValidationError) -> str:
    """The first complaint as one line that starts with the field."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    more = error.error_count() - 1
    return (f"{field}: " if field else "") + message + (f" (and {more} more)" if more else "")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
