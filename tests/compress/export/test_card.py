import json

import pytest
import yaml

from compress.export.card import card
from serve.artefact import Encoder, Manifest, Model, Task


def manifest(**changes: object) -> Manifest:
    given = {
        "name": "film",
        "created": "2026-01-02T03:04:05Z",
        "task": Task(kind="classification", inputs=1, labels=("bad", "good"), metric="accuracy"),
        "encoder": Encoder(kind="wordpiece", max_length=64, inputs=("input_ids", "attention_mask")),
        "models": {
            "fp32": Model(path="onnx/model.onnx", precision="fp32", method="export"),
            "int8": Model(path="onnx/model_quantized.onnx", precision="int8", method="static"),
        },
        "served": "int8",
        "teacher": {"model": "some/teacher"},
        "metrics": {"test": {"rows": 120, "int8": {"value": 0.91, "low": 0.88, "high": 0.94}}},
        "candidates": [
            {
                "name": "static",
                "method": "static",
                "chosen": True,
                "size_bytes": 23_789_214,
                "texts_per_second": {"1": 420.3, "32": 504.0},
            }
        ],
    }
    return Manifest(**{**given, **changes})


def test_the_front_matter_is_yaml_and_leaves_the_licence_to_the_user() -> None:
    _, front, _ = card(manifest()).split("---\n", 2)
    read = yaml.safe_load(front)
    assert read["pipeline_tag"] == "text-classification" and "int8" in read["tags"]
    assert "license" not in read


def test_figures_come_from_the_manifest() -> None:
    text = card(manifest())
    assert "| test | accuracy of int8 | 0.9100 | 0.8800 to 0.9400 |" in text
    assert "| `onnx/model_quantized.onnx` (served) | int8 | static | 23.8 | 420 | 504 |" in text
    assert "`bad`, `good`" in text and "some/teacher" in text and "120 rows" in text


@pytest.mark.parametrize(("inputs", "expected"), [(1, "a text"), (2, [["a text", "another text"]])])
def test_the_request_fits_the_task(inputs: int, expected: object) -> None:
    task = Task(kind="classification", inputs=inputs, labels=("bad", "good"), metric="accuracy")
    body = card(manifest(task=task)).split("-d '")[1].split("'")[0]
    assert json.loads(body) == {"inputs": expected}


def test_the_python_in_it_compiles() -> None:
    code = card(manifest()).split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "film/onnx/model_quantized.onnx" in code
