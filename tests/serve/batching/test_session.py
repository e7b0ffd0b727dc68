"""A real model behind the queue, called by several threads."""

from typing import Any

import numpy as np
import pytest

from serve.batching import Batcher, packer
from serve.costs import Costs
from serve.runtime import Session
from tests.serve.batching.test_threads import Told

COSTS = Costs(lengths=(4, 24), seconds=((1.0, 1.1, 1.3, 1.7), (2.0, 3.0, 5.0, 9.0)))
TEXTS = ["good", "bad movie", "the film was great . " * 2, "not very good !", "a", "warm " * 30]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("alone", [False, True])
def test_requests_get_the_models_answers(tiny: Any, runtime: str, alone: bool) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    session, told, sizes = Session(tiny.artefact, runtime=runtime, callers=3), Told(), list[int]()
    batcher = Batcher(
        session.run,
        packer=packer(COSTS, max_batch_tokens=128, alone=alone),
        done=told,
        max_queued_tokens=10**6,
        threads=3,
        observe=lambda facts: sizes.append(facts.texts),
    )
    requests = [[TEXTS[at % 6]] if at % 5 else TEXTS for at in range(60)]
    for name, texts in enumerate(requests):
        batcher.submit(session.pieces.encode(texts), name)
    batcher.close()
    for name, texts in enumerate(requests):
        np.testing.assert_allclose(told.tickets[name].values, tiny.torch_logits(texts), atol=2e-4)
    assert len(told.tickets) == 60 and sum(sizes) == 12 * 6 + 48 and (max(sizes) == 1) == alone
