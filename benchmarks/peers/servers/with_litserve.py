"""LitServe: one model in each of its worker processes; a request holds its own batch.

https://lightning.ai/docs/litserve. Its own batching of requests stays off: at one text a run this model is at its best.
"""

import os
from typing import Any

import litserve
from peer_model import Answer, open_model


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.model = open_model(os.environ["PEER_MODEL"])

    def decode_request(self, request: dict[str, Any]) -> list[str]:
        texts: list[str] = request["texts"]
        return texts

    def predict(self, texts: list[str]) -> list[Answer]:
        return self.model(texts)

    def encode_response(self, output: list[Answer]) -> list[Answer]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(), accelerator="cpu", workers_per_device=int(os.environ["PEER_WORKERS"]), timeout=60
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
