"""MLServer: a custom runtime in its pool of inference workers, asked by the Open Inference Protocol.

https://docs.seldon.ai/mlserver/user-guide/custom. Started by `mlserver start FOLDER` on a folder with the settings that
`benchmarks.peers.catalogue` writes.
"""

import os
from typing import List  # noqa: UP035  its codecs know no other spelling

from mlserver import MLModel
from mlserver.codecs import decode_args
from peer_model import open_model


class Classifier(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self.model = open_model(os.environ["PEER_MODEL"])
        return True

    @decode_args  # type: ignore[untyped-decorator]
    async def predict(self, texts: List[str]) -> List[str]:  # noqa: UP006
        return [answer["label"] for answer in self.model(texts)]
