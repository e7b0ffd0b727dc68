"""Simulated int8 against onnxruntime's own quantisers, and the exported file against the simulation."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from compress import evaluate
from compress.catalogue import techniques
from compress.export import int8
from compress.export.kernels import count_kernels
from compress.export.onnx import to_onnx
from compress.quantise.qat import FakeQuantInput, FakeQuantWeight, activation_grid, fake_quantise_rows, weight_scale
from compress.recipe import Choice, TrainRecipe
from compress.technique import Run
from compress.train import train
from compress.weights import linears
from tests.compress.toy import examples


def onnx_round_trip(x: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """onnxruntime's QuantizeLinear and DequantizeLinear in uint8."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape)),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("zero", TensorProto.UINT8, []),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(x.shape))
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, [output]), opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "scale": np.array(scale, np.float32), "zero": np.array(zero, np.uint8)})[0]


def test_fake_quantised_inputs_are_those_of_onnxruntime() -> None:
    x = 3 * torch.randn(50, 20) + 1
    quantiser = FakeQuantInput(decay=0.9)
    quantiser.observe(x[:25], None)  # a part, so that the rest is clipped too
    scale, zero = activation_grid(quantiser.low, quantiser.high)
    assert np.array_equal(quantiser(x).numpy(), onnx_round_trip(x.numpy(), float(scale), int(zero)))


def test_zero_stays_zero() -> None:
    for low, high in ((-1.0, 2.0), (0.5, 2.0), (-3.0, -1.0)):
        scale, zero = activation_grid(torch.tensor(low), torch.tensor(high))
        assert torch.fake_quantize_per_tensor_affine(torch.zeros(1), scale, zero, 0, 255).item() == 0


@pytest.mark.parametrize("limit", [64, 127])
def test_weights_move_by_half_a_step_at_most_and_fold_once(limit: int) -> None:
    weight = torch.randn(8, 32)
    quant = FakeQuantWeight(8, limit)
    rounded = quant(weight)
    scale = weight_scale(weight, limit)[:, None]
    assert ((weight - rounded).abs() <= scale / 2 + 1e-7).all()
    integers = rounded / scale
    assert torch.allclose(integers, integers.round(), atol=1e-4) and integers.abs().amax(1).round().eq(limit).all()
    assert torch.allclose(quant(rounded), rounded, atol=1e-6)


def test_gradient_passes_inside_the_range_and_stops_outside() -> None:
    quantiser = FakeQuantInput(decay=0.9)
    quantiser.observe(torch.tensor([[-1.0, 1.0]]), None)
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    quantiser(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    rows = torch.randn(3, 4, requires_grad=True)
    fake_quantise_rows(rows).sum().backward()
    assert torch.equal(rows.grad, torch.ones(3, 4))


def test_ranges_move_slowly_and_leave_padding_out() -> None:
    quantiser = FakeQuantInput(decay=0.75)
    x = torch.tensor([[[-1.0, 1.0], [-100.0, 100.0]]])
    quantiser.observe(x, torch.tensor([[False, True]]))
    assert (quantiser.low.item(), quantiser.high.item()) == (-1, 1)
    quantiser.observe(5 * x, torch.tensor([[False, True]]))
    assert quantiser.high.item() == pytest.approx(0.75 * 1 + 0.25 * 5)


class Simulated:
    """Keeps the logits that the model in training gives when it is evaluated last, and the ranges it has then."""

    def __init__(self) -> None:
        self.data = examples()

    def __call__(self, model: Any) -> float:
        self.logits = evaluate.logits(model, self.data)
        return 0.0


def trained(student: Any, folder: Path, *more: Choice, **fields: Any) -> tuple[Run, np.ndarray]:
    chosen = (Choice(use="supervised"), *more, Choice(use="quantise/qat", decay=0.9, **fields))
    run = Run(student, techniques(chosen), steps=30)
    recipe = TrainRecipe(lr=1e-3, evaluations=3, precision="fp32", keep="last")
    simulated = Simulated()
    train(run, simulated.data, recipe, folder=folder, evaluate=simulated, title="")
    return run, simulated.logits


def exported(run: Run, folder: Path) -> Path:
    fp32, target = folder / "model.onnx", folder / "qat.onnx"
    to_onnx(run.model, fp32, inputs=("input_ids", "attention_mask"))
    int8.qat(int8.Source(run.model, fp32, [], run.kind, run.facts["quantisation"]), target)
    return target


def test_the_exported_file_answers_as_the_simulation(student: Any, tmp_path: Path) -> None:
    run, expected = trained(student, tmp_path)
    path = exported(run, tmp_path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    data = examples()
    feeds = [data.pieces.batch(data.encoded, [row]) for row in range(48)]
    found = np.concatenate([session.run(["logits"], feed)[0] for feed in feeds])
    assert np.abs(found - expected).max() < 0.02 * np.ptp(expected)  # a value on the edge of a step may fall either way
    assert np.abs(found - expected).mean() < 0.002 * np.ptp(expected)
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.97
    integer, floating = count_kernels(path)
    assert (integer, floating) == (2 * 6 + 2, 0)


def test_the_exported_file_holds_the_recorded_scales(student: Any, tmp_path: Path) -> None:
    run, _ = trained(student, tmp_path, limit=64)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(exported(run, tmp_path)).graph.initializer}
    record = run.facts["quantisation"]
    assert len(record) == 14
    name = "bert.encoder.layer.1.intermediate.dense"
    weights = {
        k: v for k, v in constants.items() if "layer.1/intermediate/dense" in k and v.dtype == np.int8 and v.ndim == 2
    }
    (integers,) = weights.values()
    assert np.abs(integers).max() == 64
    scales = [v for v in constants.values() if v.shape == record[name]["weight_scale"].shape and v.dtype == np.float32]
    assert any(np.array_equal(v, record[name]["weight_scale"].numpy()) for v in scales)
    weight = run.model.get_submodule(name).weight.detach().numpy()
    assert np.allclose(integers.T * record[name]["weight_scale"].numpy()[:, None], weight, atol=1e-7)


def test_zeros_of_a_mask_are_zeros_in_the_file(student: Any, tmp_path: Path) -> None:
    pruning = Choice(use="prune/magnitude", final=0.75, pattern="4x1", end=0.4, last=0.5, every=0.1)
    run, _ = trained(student, tmp_path, pruning)
    masks = {name: layer.weight == 0 for name, layer in linears(run.model)}
    assert all(mask.float().mean() >= 0.75 for mask in masks.values())
    graph = onnx.load(exported(run, tmp_path)).graph
    found = 0
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        for name, mask in masks.items():
            if (
                values.dtype == np.int8
                and values.ndim == 2
                and name.replace(".", "/").replace("layer/", "layer.") in tensor.name
            ):
                assert (values.T[mask.numpy()] == 0).all()
                found += 1
    assert found == len(masks) == 12


def test_ranges_are_frozen_and_evaluation_leaves_them_alone(student: Any, tmp_path: Path) -> None:
    (technique,) = techniques((Choice(use="quantise/qat", freeze=0.5),)).values()
    run = Run(student, {"it": technique}, steps=10)
    technique.prepare(run)
    (batch,) = examples().update(0)
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}

    def ranges() -> list[float]:
        return [q.high.item() for q in technique.inputs.values()]

    student.train()(**inputs)
    first = ranges()
    student.eval()(**{**inputs, "input_ids": inputs["input_ids"].flip(0)})
    assert ranges() == first
    student.train()(**{**inputs, "input_ids": inputs["input_ids"].flip(0)})
    second = ranges()
    assert second != first
    run.step = 5
    student.train()(**inputs)
    assert ranges() == second
    assert len({id(q) for q in technique.inputs.values()}) == 2 * 4 + 2  # query, key and value share one


def test_an_export_without_ranges_is_refused(student: Any, tmp_path: Path) -> None:
    run, _ = trained(student, tmp_path)
    del run.facts["quantisation"]["classifier"]
    with pytest.raises(ValueError, match="no ranges were recorded for classifier"):
        exported(run, tmp_path)


@pytest.mark.parametrize("fields", [{"decay": 1.0}, {"freeze": 0.0}, {"freeze": 1.5}])
def test_wrong_settings_are_refused(fields: dict[str, float], student: Any) -> None:
    (technique,) = techniques((Choice(use="quantise/qat", **fields),)).values()
    with pytest.raises(ValueError, match="decay must be in"):
        technique.prepare(Run(student, {}, steps=1))
