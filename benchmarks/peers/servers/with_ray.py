"""Ray Serve: one replica a core behind its HTTP proxy.

https://docs.ray.io/en/latest/serve/index.html. Its batching of requests stays off, for LitServe's reason.
"""

import os

import ray
from peer_model import Answer, open_model
from ray import serve
from starlette.requests import Request

WORKERS = int(os.environ["PEER_WORKERS"])


@serve.deployment(num_replicas=WORKERS, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=64)
class Classifier:
    def __init__(self) -> None:
        self.model = open_model(os.environ["PEER_MODEL"])

    async def __call__(self, request: Request) -> list[Answer]:
        question = await request.json()
        return self.model(question["texts"])


if __name__ == "__main__":
    ray.init(num_cpus=WORKERS, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])})
    serve.run(Classifier.bind(), route_prefix="/predict", blocking=True)
