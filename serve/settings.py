"""The service's settings: frozen values, and the one function that reads them from the environment.

`python -m serve.settings` prints them as docs/serving.md has them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from serve.errors import InputError

PREFIX = "BANTAM_"
GIVEN = ("artefact", "workers", "shared")  # by the launcher


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    artefact: str = Field("", description="the artefact's folder; none inside a Bento, which knows its own")
    model: str | None = Field(
        None, description="key of the manifest's models; otherwise the one that it says is served"
    )
    runtime: str = Field(
        "auto", description="bantam, onnxruntime, openvino; auto: the quickest on this host, measured once"
    )
    device: str = Field("cpu", description="cpu or cuda")
    threads: int = Field(1, ge=1, description="threads of one run of the model")
    workers: int = Field(1, ge=1, description="processes")
    parallel: int = Field(1, ge=1, description="runs of the model at once in a worker")
    max_batch_tokens: int = Field(256, ge=1, description="tokens of a run; fewer where measured costs say so")
    max_queued_tokens: int = Field(32_768, ge=1, description="tokens that may wait in a worker; beyond that: 429")
    deadline: float = Field(
        30.0, gt=0, description="seconds that a request may wait for its turn: 503; a caller may ask for less"
    )
    max_texts: int = Field(256, ge=1, description="texts of a request: 413")
    max_body: int = Field(2_000_000, ge=1, description="bytes of a request: 413")
    max_arriving: int = Field(
        100_000_000, ge=1, description="bytes of all bodies in a worker that are not yet whole: 429"
    )
    max_head: int = Field(32_768, ge=256, description="bytes of a request's line and headers: 431")
    max_connections: int = Field(1024, ge=1, description="open connections of a worker: 503")
    read_timeout: float = Field(10.0, gt=0, description="seconds for a head, and again for a body: 408")
    write_timeout: float = Field(30.0, gt=0, description="seconds in which a client must take its answer")
    keep_alive: float = Field(75.0, gt=0, description="seconds that a connection may be silent between requests")
    keys: Path | None = Field(None, description="file of API keys; otherwise nobody is asked for one")
    rate: float | None = Field(None, gt=0, description="requests a second of a key without a limit of its own: 429")
    burst: float | None = Field(None, ge=1, description="of these at once; otherwise those of one second")
    concurrent: int | None = Field(None, ge=1, description="unanswered requests of a key: 429")
    origins: tuple[str, ...] = Field((), description="origins that browsers may ask from, with commas between, or *")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="/metrics on a port of its own, under uvicorn, and not with the rest"
    )
    log_format: Literal["json", "text"] = Field("json", description="json or text, on standard error")
    access_log: bool = Field(False, description="a line for every request, not only for those that fail")
    traces: bool = Field(False, description="OpenTelemetry's, where its own OTEL_* send them; needs bantam[otel]")
    shared: Path | None = Field(None, description="a folder where workers count together")

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


def table() -> str:
    """The settings in Markdown, save for those that the launcher gives."""
    rows = ["| variable | default | what it is |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        if name not in GIVEN:
            default = "" if field.default in (None, "", ()) else f"`{field.default}`"
            rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
