"""The service's settings: frozen values, and the one function that reads them from the environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from serve.errors import InputError

PREFIX = "BANTAM_"


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    artefact: str = ""  # folder; empty only inside a Bento, which knows its own
    model: str | None = None  # key of the manifest's models; None: the one it says is served
    runtime: str = "auto"  # the quickest on this host
    device: str = "cpu"
    threads: int = Field(default=1, ge=1)  # of one model run
    workers: int = Field(default=1, ge=1)  # processes
    max_body: int = Field(default=2_000_000, ge=1)  # bytes of a request
    max_arriving: int = Field(default=100_000_000, ge=1)  # bytes of all bodies that are not yet whole
    max_texts: int = Field(default=256, ge=1)  # of a request
    parallel: int = Field(default=1, ge=1)  # runs of the model at once in a worker, each of `threads` threads
    max_batch_tokens: int = Field(default=256, ge=1)  # of a run; where padding is needed, measured costs decide
    max_queued_tokens: int = Field(default=32_768, ge=1)  # that may wait in a worker; beyond that requests get a 429
    deadline: float = Field(default=30.0, gt=0)  # seconds of waiting for its turn; a caller may ask for less
    shared: Path | None = None  # a folder where workers count together; the launcher makes it
    keys: Path | None = None  # a file of API keys, see serve.access.keys; None: nobody is asked for one
    rate: float | None = Field(default=None, gt=0)  # requests a second of a key that has no limit of its own
    burst: float | None = Field(default=None, ge=1)  # of these at once; None: those of one second
    concurrent: int | None = Field(default=None, ge=1)  # requests of a key that are not yet answered
    origins: tuple[str, ...] = ()  # that browsers may ask from, or *; in the environment with commas between
    log_format: Literal["json", "text"] = "json"
    access_log: bool = False  # a line for every request, not only for those that fail
    traces: bool = False  # OpenTelemetry's; its own OTEL_* say where they go
    max_head: int = Field(default=32_768, ge=256)  # bytes of a request's line and headers
    max_connections: int = Field(default=1024, ge=1)  # open ones of a worker
    read_timeout: float = Field(default=10.0, gt=0)  # seconds for a head, and again for a body
    write_timeout: float = Field(default=30.0, gt=0)  # seconds in which a client must take its answer
    keep_alive: float = Field(default=5.0, gt=0)  # seconds that a connection may be silent between requests
    metrics_port: int | None = Field(default=None, ge=1, le=65535)  # /metrics there, on uvicorn; None: with the rest

    @field_validator("origins", mode="before")
    @classmethod
    def parted(cls, origins: Any) -> Any:
        return [one.strip() for one in origins.split(",") if one.strip()] if isinstance(origins, str) else origins


def from_environment(environ: Mapping[str, str]) -> Settings:
    """BANTAM_ARTEFACT, BANTAM_RUNTIME, ... as settings; ValueError names the variable that is wrong."""
    found = {
        name: environ[PREFIX + name.upper()] for name in Settings.model_fields if environ.get(PREFIX + name.upper())
    }
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise InputError(f"{name}={first['input']!r}: {first['msg']}") from None


def to_environment(settings: Settings) -> dict[str, str]:
    """The environment that `from_environment` reads back as `settings`, for worker processes."""
    return {
        PREFIX + name.upper(): ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in settings.model_dump().items()
        if value not in (None, "", ())
    }
