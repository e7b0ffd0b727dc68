"""The Bento: a thin BentoML service around the app. `bentoml serve` and `bentoml build` import this file."""

import os

import bentoml
import uvicorn

from serve.app import App
from serve.http.connection import limited
from serve.settings import from_environment
from serve.telemetry import logs

SETTINGS = from_environment(os.environ)
logs.set_up(SETTINGS.log_format)
APP = App(SETTINGS)
# BentoML 1.4 starts uvicorn itself and lets nobody choose how it reads from a connection; goes once it does. Our own
# paths are answered there: on their way through BentoML they would take three times as long. The others are BentoML's.
uvicorn.config.HTTP_PROTOCOLS["auto"] = limited(SETTINGS, direct=APP.direct, mine=APP.knows)  # type: ignore[assignment]
ALIAS = "artefact"  # what bentofile.yaml calls the model that holds the artefact


@bentoml.service(
    name="bantam",
    workers=SETTINGS.workers,
    # The app counts for itself; each of these would cost more per request than the app does.
    metrics={"enabled": False},
    tracing={"sample_rate": 0.0, "excluded_urls": ".*"},
    logging={"access": {"enabled": False}},
    traffic={"timeout": 60},
)
@bentoml.asgi_app(APP)
class Student:
    def __init__(self) -> None:
        """Mounted apps get no lifespan from BentoML, so the model is loaded and warmed here, before the port opens."""
        APP.open(SETTINGS.artefact or bentoml.models.get(ALIAS).path)
        APP.warm_up()

    def __is_ready__(self) -> bool:
        return APP.ready

    def __is_alive__(self) -> bool:
        return not APP.failed
