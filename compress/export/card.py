"""README.md of an artefact: what the manifest says, for people."""

import json
from typing import Any

from serve.artefact import Manifest

TEMPLATE = """---
library_name: onnx
pipeline_tag: {pipeline}
tags:
{tags}
---

# {name}

{what}

<!-- The licence is yours to state: it depends on the data and on the teacher. -->

## Results

{results}

## Files

{files}

## How to run it

```sh
bantam serve {name} --port 3000
curl -s localhost:3000/{route} -H 'content-type: application/json' -d '{request}'
bantam predict {name} --input texts.txt --output scores.jsonl
```

{with_what}:

```python
{code}
```
"""

CODE = """import numpy as np, onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("{name}/{tokenizer}")
tokenizer.enable_truncation({max_length})
session = onnxruntime.InferenceSession("{name}/{path}")
row = tokenizer.encode({text})
feeds = {{"input_ids": [row.ids], "attention_mask": [row.attention_mask], "token_type_ids": [row.type_ids]}}
feeds = {{name: np.array(feeds[name]) for name in {inputs}}}
print(session.run(None, feeds)[0])  # {columns}"""

NGRAM_CODE = """from serve.runtime import Session

session = Session("{name}", runtime="bantam")
print(session.logits([{text}]))  # {columns}"""


def card(manifest: Manifest) -> str:
    """The model card, with the front matter that the Hugging Face hub reads."""
    task = manifest.task
    pair = task.inputs == 2
    inputs: Any = [["a text", "another text"]] if pair else "a text"
    request = json.dumps({"inputs": inputs})
    tags = ["bantam", "distillation", "onnxruntime"] + ["int8"] * ("int8" in manifest.models)
    return TEMPLATE.format(
        pipeline="sentence-similarity" if task.embedding else "text-classification",
        route="embed" if task.embedding else "predict",
        tags="\n".join(f"- {tag}" for tag in tags),
        name=manifest.name,
        what=_what(manifest),
        results=_results(manifest),
        files=_files(manifest),
        request=request,
        with_what="In Python" if _reads_ngrams(manifest) else "With onnxruntime and tokenizers alone",
        code=_code(manifest),
    )


def _reads_ngrams(manifest: Manifest) -> bool:
    return manifest.encoder.kind == "ngram"


def _code(manifest: Manifest) -> str:
    task = manifest.task
    columns = "the score" if task.kind == "regression" else f"logits of {', '.join(task.labels[:20])}"
    if task.embedding:
        columns = f"a vector of {task.embedding.size} numbers"
    text = '"a text", "another text"' if task.inputs == 2 else '"a text"'
    if _reads_ngrams(manifest):
        return NGRAM_CODE.format(name=manifest.name, text=f"({text})" if task.inputs == 2 else text, columns=columns)
    return CODE.format(
        name=manifest.name,
        tokenizer=manifest.encoder.file,
        max_length=manifest.encoder.max_length,
        path=manifest.models[manifest.served].path,
        text=text,
        inputs=list(manifest.encoder.inputs),
        columns=columns,
    )


def _what(manifest: Manifest) -> str:
    task = manifest.task
    subject = "a pair of texts" if task.inputs == 2 else "a text"
    if task.kind == "regression":
        answer = f"Gives {subject} a score."
    elif task.embedding:
        read = {"mean": "the mean over its tokens", "first": "its first token's state"}[task.embedding.pooling]
        unit = ", made 1 long" if task.embedding.normalised else ""
        answer = (
            f"Makes a text a vector of {task.embedding.size} numbers: {read}{unit}. Compare vectors by their cosine."
        )
    else:
        shown = ", ".join(f"`{label}`" for label in task.labels[:20])
        more = f" and {len(task.labels) - 20} more" if len(task.labels) > 20 else ""
        answer = f"Puts {subject} into one of {len(task.labels)} classes: {shown}{more}."
    teacher = manifest.teacher.get("model")
    origin = f" A student of `{teacher}`, made by Bantam on {manifest.created[:10]}." if teacher else ""
    limit = f" Texts are cut to {manifest.encoder.max_length:,} {'words' if _reads_ngrams(manifest) else 'tokens'}."
    if _reads_ngrams(manifest):
        limit = " It looks at single words and word n-grams, not at their order beyond." + limit
    return answer + limit + origin


def _results(manifest: Manifest) -> str:
    """One line a measurement: every dict of `metrics` with value, low and high."""
    rows = []
    for split, found in manifest.metrics.items():
        if not isinstance(found, dict):
            continue
        for name, value in found.items():
            if isinstance(value, dict) and {"value", "low", "high"} <= set(value):
                measured = f"{value['value']:.4f} | {value['low']:.4f} to {value['high']:.4f}"
                rows.append(f"| {split} | {_measurement(name, manifest.task.metric)} | {measured} |")
    if not rows:
        return "None recorded."
    header = "| split | what | value | 95 % interval |\n|---|---|---|---|\n"
    sizes = [f"{split}: {found['rows']} rows" for split, found in manifest.metrics.items() if _has_rows(found)]
    return header + "\n".join(rows) + (f"\n\n{'; '.join(sizes)}." if sizes else "")


def _has_rows(found: Any) -> bool:
    return isinstance(found, dict) and "rows" in found


def _measurement(name: str, metric: str) -> str:
    if name.startswith("agreement_"):
        return f"agreement of {name.removeprefix('agreement_')} with the teacher"
    return f"{metric} of the teacher" if name == "teacher" else f"{metric} of {name}"


def _files(manifest: Manifest) -> str:
    """Each model with its whole size on disk, embeddings and all, and its speed where it was made."""
    kept = {one["method"]: one for one in manifest.candidates if one["chosen"] or one["name"] == "fp32"}
    rows = ["| file | precision | made by | MB | texts/s in calls of 1 | of 32 |", "|---|---|---|---|---|---|"]
    for key, model in manifest.models.items():
        served = " (served)" if key == manifest.served else ""
        found = kept.get(model.method, {})
        size = f"{found['size_bytes'] / 1e6:.1f}" if found else "-"
        speeds = found.get("texts_per_second", {})
        rates = " | ".join(f"{speeds[calls]:.0f}" if calls in speeds else "-" for calls in ("1", "32"))
        rows.append(f"| `{model.path}`{served} | {model.precision} | {model.method} | {size} | {rates} |")
    return "\n".join(rows) + "\n\nSpeed: one thread of the machine that made the artefact, tokenisation included."
