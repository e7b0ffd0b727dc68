"""What a stage sets on the model before it trains."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from compress.recipe import PretrainingStage, TrainRecipe
from compress.stage import set_dropout, updates_of
from tests.compress.families import FAMILIES, texts, tiny


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_dropout_can_be_turned_off(family: str, attention: str) -> None:
    model = AutoModelForSequenceClassification.from_config(tiny(family).config, attn_implementation=attention).train()
    batch, before = texts(), model.config.to_dict()
    noisy = [model(**batch).logits for _ in range(2)]
    still = [set_dropout(model, 0.0)(**batch).logits for _ in range(2)]
    assert not torch.equal(*noisy) and torch.equal(*still)
    assert torch.allclose(still[0], model.eval()(**batch).logits, atol=1e-6)
    assert model.config.to_dict() == before  # the checkpoint's own stays what the artefact tells


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_word_dropout_stays(family: str) -> None:
    model = tiny(family)
    before = {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    set_dropout(model, None)
    assert before and before == {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}


def test_updates_are_epochs_or_said_outright() -> None:
    assert updates_of(TrainRecipe(epochs=2.5), 10) == 25
    assert updates_of(TrainRecipe(epochs=0.01), 10) == 1
    assert updates_of(PretrainingStage(techniques=("supervised",), updates=7), 10) == 7
    assert updates_of(PretrainingStage(techniques=("supervised",), epochs=3), 10) == 30
