"""`python -m compress.random_student ARTEFACT --out FOLDER`: random weights in any shape, to measure speed by.

The student has the tokenizer, labels and family of ARTEFACT, and its shape where no other is asked for. Nothing is
trained, so its answers mean nothing: name, card and provenance say so. It holds one file, static INT8, whose ranges are
those of random word pieces. Blocks that are zero lie at random, as many in each matrix.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from compress.export import calibrate, qdq
from compress.export.kernels import count_kernels
from compress.export.onnx import to_onnx
from compress.models import quiet
from compress.package import TOKENIZER_FILES, sparsity
from compress.patterns import BLOCKS, check_fits, masks
from compress.weights import linears
from compress.widths import FIELD
from serve.artefact import Artefact, Encoder, Manifest, Model, load, seal, write
from serve.encode import Feeds

INT8 = "onnx/model_quantized.onnx"
CARD = """# Random weights, speed only

Nothing was trained: the answers of this model mean nothing. It was made to measure how fast a model of its shape runs.
"""
TEXTS, LENGTH = 8, 32  # random ones, whose activations give the ranges
FIRST_WORD = 5  # ids below stand for padding and the like


@dataclass(frozen=True)
class Shape:
    """What differs from the artefact that was given; None for nothing."""

    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    neurons: int | None = None  # of a feed-forward layer
    zeros: float = 0.0  # share of the weights of each linear layer of the encoder's blocks
    pattern: str = "16x4"


def make(source: Artefact, target: Path, shape: Shape, *, seed: int = 0, force: bool = False) -> Artefact:
    """Writes a student with random weights to `target`. ValueError for a shape that cannot be."""
    model = build(_config(source, shape), shape, seed)
    encoder = source.manifest.encoder
    with write(target, force=force) as staging:
        for file in {*TOKENIZER_FILES, encoder.file}:
            if (source.root / file).is_file():
                copy(source.root / file, staging / file)
        model.config.save_pretrained(staging)
        (staging / INT8).parent.mkdir()
        _export(model, encoder, staging / INT8, seed)
        integer, floating = count_kernels(staging / INT8)
        manifest = Manifest(
            name="random-weights-speed-only",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            task=source.manifest.task,
            encoder=encoder,
            models={
                "int8": Model(
                    path=INT8, precision="int8", method="static", integer_kernels=integer, float_kernels=floating
                )
            },
            served="int8",
            sparsity=sparsity(model),
            provenance={"weights": "random"},
        )
        (staging / "README.md").write_text(CARD, encoding="utf-8")
        seal(staging, manifest)
    return load(target, verify=False)


def _config(source: Artefact, shape: Shape) -> Any:
    config = AutoConfig.from_pretrained(source.root)
    if hasattr(config, FIELD):
        raise ValueError(f"{source.root} was cut to narrower blocks; take an artefact with all heads and neurons")
    given = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.neurons,
    }
    for field, value in given.items():
        if value is None:
            continue
        if value < 1 or not hasattr(config, field):
            raise ValueError(f"{field} must be 1 or more, in a family that has it; got {value} for {config.model_type}")
        setattr(config, field, value)
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"the width must be a multiple of the heads, got {config.hidden_size} and {config.num_attention_heads}"
        )
    return config


def build(config: Any, shape: Shape, seed: int) -> Any:
    """The torch model, with its zeros."""
    if shape.pattern not in BLOCKS:
        raise ValueError(f"pattern must be one of {', '.join(BLOCKS)}, got {shape.pattern!r}")
    if not 0 <= shape.zeros < 1:
        raise ValueError(f"zeros must be at least 0 and below 1, got {shape.zeros}")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        family: Any = AutoModelForSequenceClassification
        model = family.from_config(config, attn_implementation="eager").eval()
        if not shape.zeros:
            return model
        for name, layer in linears(model):
            check_fits(name, layer.weight, shape.pattern)
            (keep,) = masks([torch.rand_like(layer.weight)], shape.zeros, shape.pattern, together=False)
            layer.weight.mul_(keep)
    return model


def _export(model: Any, encoder: Encoder, target: Path, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fp32 = to_onnx(model, Path(folder) / "model.onnx", inputs=encoder.inputs)
        histograms = calibrate.observe(fp32, _texts(model.config, encoder, seed))
        qdq.write(fp32, target, calibrate.grids(histograms, "minmax"))


def _texts(config: Any, encoder: Encoder, seed: int) -> list[Feeds]:
    shape = (TEXTS, 1, min(LENGTH, encoder.max_length))
    ids = np.random.default_rng(seed).integers(FIRST_WORD, config.vocab_size, shape)
    known = {"attention_mask": np.ones_like(ids[0]), "token_type_ids": np.zeros_like(ids[0])}
    return [{name: {"input_ids": row, **known}[name] for name in encoder.inputs} for row in ids]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefact", type=Path, help="has the tokenizer, labels and family")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    for field in ("layers", "width", "heads", "neurons"):
        parser.add_argument(f"--{field}", type=int, help="left out: as the artefact has it")
    parser.add_argument("--zeros", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--pattern", default="16x4", metavar="ROWSxCOLUMNS", help=f"one of {', '.join(BLOCKS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace an artefact that is there")
    options = parser.parse_args(arguments)
    shape = Shape(
        options.layers, options.width, options.heads, options.neurons, zeros=options.zeros, pattern=options.pattern
    )
    quiet()
    try:
        made = make(load(options.artefact), options.out, shape, seed=options.seed, force=options.force)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{made.root}: random weights, {made.manifest.sparsity['unstructured']:.1%} zeros in the linear layers")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
