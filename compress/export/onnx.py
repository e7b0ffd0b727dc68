"""A Hugging Face sequence classifier as one fp32 ONNX file, for any batch and any length up to its limit.

Architectures that optimum knows go through optimum, which carries the patches that some of them need; the others,
and calls with other inputs than optimum's, go to `torch.onnx.export`. Both end in the TorchScript exporter: for a
BERT the dynamo one gave the same numbers in a file 10 % slower (onnxruntime 1.31), and it bounds the length at the
example's.

Attention is exported eager, not SDPA: the same numbers in 40 nodes fewer (6 layers), so less per call at batch 1.
"""

import copy
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from transformers import PreTrainedModel

from compress.anatomy import FAMILIES
from compress.embedder import Embedder
from compress.widths import restore

OPSET = 17


def to_onnx(model: nn.Module, path: Path | str, *, inputs: tuple[str, ...], opset: int = OPSET) -> Path:
    """Write `model` to `path`: `inputs` [B, L] int64 as named and in that order, one output: "logits" [B, C], or of an
    embedder "sentence_embedding" [B, D].

    The model itself is left as it is, wherever it lies. Raises ValueError for an input that it does not take.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = _plain(model)
    with quiet(), torch.no_grad():
        config = _optimum_config(plain, inputs)
        if config is not None:
            _by_optimum(plain, path, config, opset)
        else:
            _by_torch(plain, path, inputs, opset)
    _tidy(path, inputs, taken(plain), output_of(model))
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters and quantisers talk at length of what nobody can change; hush warnings and logs below ERROR."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class _Logits(nn.Module):
    """The model as a function of positional tensors; each gets its name back."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        output = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return output.logits if hasattr(output, "logits") else output


def output_of(model: nn.Module) -> str:
    """The name of what the file gives, in the words of those who read such files."""
    return "sentence_embedding" if isinstance(model, Embedder) else "logits"


def positional(model: nn.Module, inputs: tuple[str, ...]) -> nn.Module:
    """A copy of `model` on the CPU whose forward takes `inputs` in order and gives logits, in evaluation mode."""
    return _Logits(_plain(model), inputs).eval()


def example(inputs: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    """Inputs [2, 16] to trace with. No id is the padding id of BERT or RoBERTa."""
    ids, ones = torch.arange(5, 37).reshape(2, 16), torch.ones(2, 16, dtype=torch.int64)
    values = {"input_ids": ids, "attention_mask": ones, "token_type_ids": torch.zeros_like(ids)}
    unknown = [name for name in inputs if name not in values]
    if unknown:
        raise ValueError(f"inputs must be among {', '.join(values)}; got {', '.join(unknown)}")
    return tuple(values[name] for name in inputs)


def _plain(model: nn.Module) -> nn.Module:
    """A float32 copy on the CPU, in evaluation mode, with eager attention where it is a stock architecture."""
    plain = copy.deepcopy(model).to("cpu", torch.float32).eval()
    if isinstance(plain, Embedder):
        plain.encoder = _plain(plain.encoder)
    if isinstance(plain, PreTrainedModel) and getattr(plain.config, "_attn_implementation", "eager") != "eager":
        # `set_attn_implementation` refuses BERT and its kin in transformers 4.57, so the model is built anew.
        with torch.random.fork_rng(devices=[]):
            eager = type(plain)._from_config(copy.deepcopy(plain.config), attn_implementation="eager")
        eager = eager.to(torch.float32)
        if plain.config.model_type in FAMILIES:
            restore(eager)
        weights = plain.state_dict()
        if {name: tensor.shape for name, tensor in eager.state_dict().items()} == {
            name: tensor.shape for name, tensor in weights.items()
        }:  # else it was changed by hand, and is exported as it is
            eager.load_state_dict(weights)
            plain = eager.eval()
    return plain.requires_grad_(False)


def _optimum_config(model: nn.Module, inputs: tuple[str, ...]) -> Any | None:
    """Optimum's description of this architecture, or None where it has none or means other inputs."""
    from optimum.exporters.tasks import TasksManager

    kind = getattr(getattr(model, "config", None), "model_type", None)
    if not isinstance(model, PreTrainedModel) or "text-classification" not in _tasks(TasksManager, kind):
        return None
    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model=model, task="text-classification", library_name="transformers"
    )
    config = constructor(model.config)
    return config if set(config.inputs) == set(inputs) else None


def _tasks(manager: Any, kind: str) -> dict[str, Any]:
    try:
        return dict(
            manager.get_supported_tasks_for_model_type(kind.replace("_", "-"), "onnx", library_name="transformers")
        )
    except KeyError:  # optimum's way to say that it does not know the architecture
        return {}


def _by_optimum(model: nn.Module, path: Path, config: Any, opset: int) -> None:
    from optimum.exporters.onnx import export

    export(model, config, path, opset=max(opset, config.DEFAULT_ONNX_OPSET))


def _by_torch(model: nn.Module, path: Path, inputs: tuple[str, ...], opset: int) -> None:
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "length"} for name in inputs}
    torch.onnx.export(
        _Logits(model, inputs),
        example(inputs),
        path,
        input_names=list(inputs),
        output_names=[output_of(model)],
        dynamic_axes=axes | {output_of(model): {0: "batch"}},
        opset_version=opset,
        dynamo=False,
    )


def taken(model: nn.Module) -> set[str]:
    """Names that the model's forward takes."""
    return set(inspect.signature(model.forward).parameters)


def _tidy(path: Path, inputs: tuple[str, ...], taken: set[str], output: str) -> None:
    """Inputs in the order asked for, one output, no aliases of equal weights, and no shapes of inner values.

    With shapes known onnxruntime fuses Add and LayerNormalization to SkipLayerNormalization, whose CPU kernel took
    38 us where the two took 9 us (1.31, 25 x 384, one thread): files without them ran up to 1.4 times faster.
    """
    model = onnx.load(path)
    graph = model.graph
    found = {value.name: value for value in graph.input}
    for name in taken & set(inputs) - set(found):  # an encoder without heads needs no mask, but callers feed one
        found[name] = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "length"])
    if set(found) != set(inputs):
        raise ValueError(f"inputs must be those of the model, {', '.join(sorted(found))}; got {', '.join(inputs)}")
    ordered = [found[name] for name in inputs]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(ordered)
    given = [value for value in graph.output if value.name == output]
    assert given, [value.name for value in graph.output]
    del graph.output[:]
    graph.output.extend(given)
    _drop_aliases(graph)
    onnx.save(model, path)


def _drop_aliases(graph: onnx.GraphProto) -> None:
    """The exporter stores equal tensors once and copies them by Identity; quantisers see no constant behind it."""
    origin = {tensor.name: tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
    kept = [node for node in graph.node if node.op_type != "Identity" or node.input[0] not in origin]
    for node in kept:
        names = [origin.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(names)
    del graph.node[:]
    graph.node.extend(kept)
