"""Whether an ONNX file was understood: each part of the engine's network, given what onnxruntime gave that part, must
answer as onnxruntime does.

Logits would not do. Roundings to bytes grow from layer to layer, so that those of twelve layers are 0.2-0.3 standard
deviations from onnxruntime's, as both are from fp32's, and with a wrong last layer they are no further.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.engine.graph import read
from serve.engine.library import HEAD, Compiled, paths
from serve.engine.network import Declined, Floats, Linear, Network

TEXTS = 12  # random ones, among them the shortest and a long one
AT_MOST = 128  # word pieces of each
# Of differences, in standard deviations over word pieces: the root mean square, 0.08 measured at most with activations
# whose ranges differ (the file's of a whole text, ours of a word piece), and 0.01 with ranges that are stored.
APART = 0.15
# The median over word pieces, where ranges are stored or there are no activations: 0.0014 measured at most; 0.02-1 with
# one thing wrong (rows of a matrix rotated, a bias forgotten, the LayerNorms swapped, an activation mistaken).
ALIKE = 0.02
IN_FLOAT = {"amx": "avx512", "avx512bf16": "avx512"}  # attention in bf16 is 0.05 from onnxruntime's


@dataclass(frozen=True)
class Text:
    ids: NDArray[np.int64]
    types: NDArray[np.int64] | None
    expected: list[Floats]  # [tokens, D] of the embeddings and each layer, [1 or tokens, outputs] of the head


def rehearse(path: Path, network: Network, compiled: Compiled) -> None:
    """Declined unless each part answers random texts as onnxruntime does, and together they are the whole."""
    texts = list(_texts(path, network, compiled))
    twin = Compiled(compiled.data, path=IN_FLOAT[compiled.path]) if compiled.path in IN_FLOAT else compiled
    layers = [f"its layer {at} does" for at in range(1, len(network.layers) + 1)]
    for index, name in enumerate(["its embeddings do", *layers, "its head does"]):
        rms, median = _apart(twin, texts, index)
        if not rms <= APART or not (median <= ALIKE or _ranges_differ(network, index)):
            raise Declined(f"{name} not answer as onnxruntime does: {rms:.3f} apart, {median:.4f} for half the pieces")
    types = None if texts[0].types is None else [text.types for text in texts if text.types is not None]
    whole = compiled.run([text.ids for text in texts], types)
    if not np.array_equal(whole, np.concatenate([_chained(compiled, text) for text in texts])):
        raise Declined("its parts one by one do not give what they give together")


def _texts(path: Path, network: Network, compiled: Compiled) -> Iterator[Text]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    given = read(path).outputs  # already: an encoder without a head gives its last layer's
    model = shown(path.read_bytes(), [name for name in network.tensors if name not in given])
    reference = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = {one.name for one in reference.get_inputs()}
    rng, longest = np.random.default_rng(0), min(compiled.longest, AT_MOST)
    for length in [1, min(2, longest), longest, *rng.integers(1, longest + 1, TEXTS - 3).tolist()]:
        ids, types = rng.integers(0, compiled.vocabulary, length), np.sort(rng.integers(0, compiled.types, length))
        feeds = {"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None], "token_type_ids": types[None]}
        asked = dict.fromkeys(network.tensors)  # onnxruntime gives none of them twice
        found = dict(zip(asked, reference.run(list(asked), {name: feeds[name] for name in names}), strict=True))
        *hidden, answers = (found[name] for name in network.tensors)
        expected = (1, length, compiled.outputs) if compiled.each_token else (1, compiled.outputs)
        if answers.shape != expected:
            raise Declined(f"it answers {expected} numbers, onnxruntime {answers.shape}")
        parts = [*(one[0] for one in hidden), answers[0] if compiled.each_token else answers]
        yield Text(ids, types if "token_type_ids" in names else None, parts)


def _apart(compiled: Compiled, texts: Sequence[Text], index: int) -> tuple[float, float]:
    """Root mean square of differences, and the median of word pieces' own, in standard deviations."""
    ours = np.concatenate([_alone(compiled, text, index) for text in texts]).astype(np.float64)
    theirs = np.concatenate([text.expected[index] for text in texts])
    squares, spread = np.mean((ours - theirs) ** 2, axis=1), np.sqrt(np.mean((theirs - theirs.mean(0)) ** 2))
    return float(np.sqrt(squares.mean()) / spread), float(np.sqrt(np.median(squares)) / spread)


def _alone(compiled: Compiled, text: Text, index: int) -> Floats:
    """What a part makes of what onnxruntime's part before it gave."""
    x, expected = np.zeros((len(text.ids), compiled.width), np.float32), text.expected[index]
    if index:
        x[:, : text.expected[index - 1].shape[1]] = text.expected[index - 1]
    part = HEAD if index == len(text.expected) - 1 else index
    return compiled.part(part, x, text.ids, text.types)[:, : expected.shape[1]]


def _chained(compiled: Compiled, text: Text) -> Floats:
    x = np.zeros((len(text.ids), compiled.width), np.float32)
    for index in range(len(text.expected) - 1):
        x = compiled.part(index, x, text.ids, text.types)
    return compiled.part(HEAD, x, text.ids, text.types)


def _ranges_differ(network: Network, index: int) -> bool:
    """Whether onnxruntime multiplies other bytes in that layer, or other sums: on AVX2 its products saturate."""
    there, linears = paths(), list[Linear | None]()
    if 1 <= index <= len(network.layers):
        layer = network.layers[index - 1]
        linears = [layer.query, layer.key, layer.value, layer.out, layer.up, layer.down]
    elif index and network.reads == "all":  # of a single token they are the same
        linears = [*network.head]
    saturates = there.get("avx2", False) and not (there["avx512"] or there["avxvnni"])
    return any(one is not None and one.weight.size and (saturates or one.step == 0) for one in linears)


def shown(model: bytes, tensors: Sequence[str]) -> bytes:
    """An ONNX file that gives these tensors after its own outputs: protobuf merges a message that comes again."""
    graph = b"".join(_field(12, _field(1, name.encode())) for name in tensors)  # GraphProto.output, ValueInfoProto.name
    return model + _field(7, graph)  # ModelProto.graph


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)
