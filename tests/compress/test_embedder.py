"""The model of an embedding task: what it reads of an encoder, what its folder says, what it refuses."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from compress.anatomy import blocks, encoder_path
from compress.data.load import Data, Examples
from compress.embedder import Embedder, load, load_for, pooled, pooling_of, told_by
from compress.export.onnx import to_onnx
from compress.recipe import Recipe
from compress.widths import Keep, shrink
from serve.engines import onnxruntime
from tests.compress.conftest import MAX_LENGTH, MINIMAL, tiny_bert
from tests.compress.families import FAMILIES, texts, tiny

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def embedder(pooling: Any = "mean", *, normalised: bool = True) -> Embedder:
    return Embedder(tiny_bert(layers=2, width=16, seed=4).bert, pooling=pooling, normalised=normalised).eval()


def test_the_mean_is_over_real_tokens_and_the_first_is_the_first() -> None:
    """By hand: two texts of two and three tokens."""
    hidden = torch.tensor([[[1.0, 2], [3, 6], [100, 100]], [[1, 0], [2, 0], [6, 3]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pooled(hidden, mask, "mean").tolist() == [[2, 4], [3, 1]]
    assert pooled(hidden, mask, "first").tolist() == [[1, 2], [1, 0]]
    assert pooled(hidden.bfloat16(), mask, "mean").dtype == torch.float32


@pytest.mark.parametrize("normalised", [True, False])
def test_padding_changes_no_vector(batch: dict[str, torch.Tensor], normalised: bool) -> None:
    model = embedder(normalised=normalised)
    inputs = {name: batch[name] for name in INPUTS[:2]}
    vectors = model(**inputs).logits
    assert vectors.shape == (4, 16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-6) == normalised
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        alone = model(**{name: value[row : row + 1, :length] for name, value in inputs.items()}).logits[0]
        assert torch.allclose(vectors[row], alone, atol=1e-5)


@pytest.mark.parametrize(("pooling", "normalised"), [("mean", True), ("first", True), ("mean", False)])
def test_the_exported_file_gives_the_vectors_of_torch(
    pooling: Any, normalised: bool, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = embedder(pooling, normalised=normalised)
    run = onnxruntime(to_onnx(model, tmp_path / "model.onnx", inputs=INPUTS), device="cpu", threads=1)
    feeds = {name: batch[name] for name in INPUTS[:2]} | {"token_type_ids": torch.zeros_like(batch["input_ids"])}
    with torch.no_grad():
        expected = model(**feeds).logits.numpy()
    np.testing.assert_allclose(run({name: value.numpy() for name, value in feeds.items()}), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_embeds(family: str, tmp_path: Path) -> None:
    model, inputs = Embedder(tiny(family).base_model, pooling="mean", normalised=True).eval(), texts()
    run = onnxruntime(to_onnx(model, tmp_path / "model.onnx", inputs=INPUTS[:2]), device="cpu", threads=1)
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    np.testing.assert_allclose(run({name: value.numpy() for name, value in inputs.items()}), expected, atol=1e-5)


@pytest.mark.parametrize(("pooling", "normalised"), [("mean", True), ("first", False)])
def test_sentence_transformers_reads_the_folder(toy: Path, pooling: Any, normalised: bool, tmp_path: Path) -> None:
    """Oracle: that library's own pooling, from what we wrote."""
    library = pytest.importorskip("sentence_transformers")
    model, tokenizer = load(str(toy / "encoder"), pooling, MAX_LENGTH, normalised=normalised)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    some = ["a fine moving film", "dull and flat"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of names that it is about to change
        theirs = library.SentenceTransformer(str(tmp_path), device="cpu").encode(some, show_progress_bar=False)
    with torch.no_grad():
        ours = model(**tokenizer(some, padding=True, return_tensors="pt")).logits
    np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)
    assert told_by(str(tmp_path)) == pooling


def test_a_saved_one_comes_back_and_is_a_plain_encoder_too(toy: Path, tmp_path: Path) -> None:
    model, tokenizer = load(str(toy / "encoder"), "mean", MAX_LENGTH)
    shrink(model, [Keep((1,), (0, 1, 2)), *[Keep((0, 1), tuple(range(32)))] * 3])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load(str(tmp_path), "mean", MAX_LENGTH)
    expected, found = model.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert not [name for name in found if "pooler" in name]


def test_blocks_are_found_within_it_and_in_the_bare_encoder(toy: Path) -> None:
    bare = AutoModel.from_pretrained(toy / "encoder")
    assert encoder_path(bare) == "encoder.layer"
    assert blocks(Embedder(copy.deepcopy(bare), pooling="mean", normalised=True))[3].state_dict().keys() == (
        blocks(bare)[3].state_dict().keys()
    )


def recipe(teacher: Path, **task: Any) -> Recipe:
    values = MINIMAL | {"task": {"dataset": "x", "text": ["a", "b"], "kind": "embedding", **task}}
    return Recipe.of({**values, "teacher": {"model": str(teacher)}}, "test")


def folder(path: Path, config: dict[str, Any], modules: tuple[str, ...] = ("Transformer", "Pooling")) -> Path:
    (path / "1_Pooling").mkdir(parents=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    listed = [{"type": f"sentence_transformers.models.{name}"} for name in modules]
    (path / "modules.json").write_text(json.dumps(listed))
    return path


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "first"),
        ({"embedding_dimension": 16, "pooling_mode": "cls"}, "first"),
        ({"embedding_dimension": 16, "pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_the_teachers_own_pooling_is_taken(config: dict[str, Any], pooling: str, tmp_path: Path) -> None:
    teacher = folder(tmp_path / "teacher", config)
    assert pooling_of(recipe(teacher)) == pooling_of(recipe(teacher, pooling=pooling)) == pooling
    other = {"mean": "first", "first": "mean"}[pooling]
    with pytest.raises(ValueError, match=f"task.pooling is '{other}', but .* was made with '{pooling}'"):
        pooling_of(recipe(teacher, pooling=other))


def test_a_teacher_that_says_nothing_is_pooled_as_the_recipe_says(tmp_path: Path) -> None:
    assert pooling_of(recipe(tmp_path)) == "mean"
    assert pooling_of(recipe(tmp_path, pooling="first")) == "first"


@pytest.mark.parametrize(
    ("config", "modules", "complaint"),
    [
        ({"pooling_mode_max_tokens": True}, ("Transformer", "Pooling"), "asks for max: choose another teacher"),
        ({"pooling_mode": "lasttoken"}, ("Transformer", "Pooling"), "asks for lasttoken"),
        ({"pooling_mode": ["mean", "max"]}, ("Transformer", "Pooling"), "asks for mean and max"),
        ({"pooling_mode_mean_tokens": False}, ("Transformer", "Pooling"), "asks for nothing"),
        ({"pooling_mode": "mean"}, ("Transformer", "Pooling", "Dense"), "has a module Dense as well"),
    ],
)
def test_what_we_cannot_pool_is_refused(
    config: dict[str, Any], modules: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        pooling_of(recipe(folder(tmp_path / "teacher", config, modules)))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    teacher = folder(tmp_path / "teacher", {})
    (teacher / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"1_Pooling/config\.json is no JSON"):
        pooling_of(recipe(teacher))


def test_a_checkpoint_becomes_the_model_of_its_task(toy: Path) -> None:
    nothing = Examples([], np.zeros(0, np.float32), 2)
    data = Data("embedding", (), ("a", "b"), "cosine_spearman", nothing, nothing, {}, (), "")
    asked = recipe(toy / "encoder", normalised=False, max_length=MAX_LENGTH)
    model, _ = load_for(asked, data, str(toy / "encoder"))
    told = model.embedding
    assert (told.size, told.pooling, told.normalised) == (16, "mean", False)
