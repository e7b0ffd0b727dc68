"""BentoML with adaptive batching (`batchable`), which sets its own wait by what it has measured.

https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html
Started by `bentoml serve with_bentoml:Classifier`.
"""

import os

import bentoml
from peer_model import Answer, open_model


@bentoml.service(workers=int(os.environ["PEER_WORKERS"]), traffic={"timeout": 60})
class Classifier:
    def __init__(self) -> None:
        self.model = open_model(os.environ["PEER_MODEL"])

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def predict(self, texts: list[str]) -> list[Answer]:
        return self.model(texts)
