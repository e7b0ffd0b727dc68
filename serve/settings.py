"""The service's settings: frozen values, and the one function that reads them from the environment."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
    max_texts: int = Field(default=256, ge=1)  # of a request
    max_waiting: int = Field(default=512, ge=1)  # requests that may wait or run at once in a worker


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
        PREFIX + name.upper(): str(value) for name, value in settings.model_dump().items() if value not in (None, "")
    }
