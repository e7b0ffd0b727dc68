"""Maps of weights and inputs written for speed give what torch's own slow operators give."""

import pytest
import torch
from torch import Tensor, nn

from compress.patterns import keep_largest
from compress.quantise.qat import QAT, FakeQuantInput, RoundInput, RoundWeight, weight_scale
from compress.supervised import Supervised
from compress.technique import Run
from compress.weights import Mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("scale", "zero"), [(0.01, 0), (0.013, 117), (0.02, 255), (1e-8, 3)])
def test_rounded_inputs_and_their_gradients_have_the_bits_of_torch(scale: float, zero: int, dtype: torch.dtype) -> None:
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(zero)).to(dtype)
    s, z = torch.tensor(scale), torch.tensor(zero, dtype=torch.int32)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = RoundInput.apply(ours, s, z)
    wanted = torch.fake_quantize_per_tensor_affine(theirs.float(), s, z, 0, 255)
    assert torch.equal(got, wanted)
    upstream = torch.randn_like(got)
    got.backward(upstream)
    wanted.backward(upstream)
    assert torch.equal(ours.grad, theirs.grad)
    assert 0 < (ours.grad == 0).float().mean() < 1 or scale == 1e-8  # some are clipped, some are not


@pytest.mark.parametrize("limit", [64, 127])
def test_rounded_weights_have_the_bits_of_torch(limit: int) -> None:
    weight = torch.randn(48, 64).requires_grad_()
    scale = weight_scale(weight, limit)
    zeros = torch.zeros(48, dtype=torch.int32)
    got = RoundWeight.apply(weight, scale[:, None])
    assert torch.equal(got, torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -limit, limit))
    upstream = torch.randn_like(got)
    got.backward(upstream)
    assert torch.equal(weight.grad, upstream)


def test_a_mask_follows_its_pattern_and_leaves_no_negative_zero() -> None:
    weight = torch.randn(8, 8).requires_grad_()
    mask = Mask(torch.ones(8, 8, dtype=torch.bool))
    assert torch.equal(mask(weight), weight)
    for seed in range(3):
        keep = torch.rand(8, 8, generator=torch.Generator().manual_seed(seed)) > 0.5
        mask.keep.copy_(keep)
        got = mask(weight)
        assert torch.equal(got, torch.where(keep, weight, 0))
        assert not torch.signbit(got[~keep]).any()
        weight.grad = None
        got.sum().backward()
        assert torch.equal(weight.grad, keep.float())
    mask.load_state_dict({"keep": torch.zeros(8, 8, dtype=torch.bool)})
    assert mask(weight).eq(0).all()
    mask.to(torch.device("meta")).to_empty(device="cpu").keep.fill_(True)  # another tensor under the same name
    assert torch.equal(mask(weight), weight)


def test_a_mask_that_an_evaluation_asked_first_trains_on() -> None:
    weight, mask = torch.randn(4, 4).requires_grad_(), Mask(torch.ones(4, 4, dtype=torch.bool))
    mask.keep.copy_(torch.eye(4, dtype=torch.bool))
    with torch.inference_mode():
        mask(weight)
    mask(weight).sum().backward()
    assert torch.equal(weight.grad, torch.eye(4))


def by_sorting(scores: Tensor, dropped: int) -> Tensor:
    keep = torch.ones(scores.numel(), dtype=torch.bool)
    keep[scores.flatten().sort(stable=True).indices[:dropped]] = False
    return keep.view_as(scores)


@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.5, 0.99])
def test_the_smallest_go_and_their_number_is_exact_even_among_equals(sparsity: float) -> None:
    scores = torch.rand(40, 25)
    assert torch.equal(keep_largest([scores], sparsity)[0], by_sorting(scores, int(sparsity * 1000 + 1e-9)))
    for equals in (torch.zeros(40, 25), scores.mul(4).floor()):
        keep = keep_largest([equals], sparsity)[0]
        assert int((~keep).sum()) == int(sparsity * 1000 + 1e-9)
        if keep.any() and not keep.all():
            assert equals[~keep].max() <= equals[keep].min()


def test_layers_that_share_an_input_round_it_once(
    student: nn.Module, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded: list[Tensor] = []
    monkeypatch.setattr(RoundInput, "apply", lambda x, *_: rounded.append(x) or x)
    technique = QAT()
    technique.prepare(Run(student, {"qat": technique, "task": Supervised()}, steps=2))
    inputs = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
    for passes in (1, 2):
        student(**inputs)
        assert len(rounded) == passes * (2 * 4 + 2)  # query, key and value of each block take one image
    quantisers = {id(q): q for q in technique.inputs.values()}.values()
    assert all(quantiser.given is None for quantiser in quantisers)  # nothing holds on to activations


def test_a_lone_taker_keeps_nothing() -> None:
    quantiser = FakeQuantInput(decay=0.5)
    quantiser.observe(torch.randn(4, 4), None)
    x = torch.randn(4, 4)
    assert torch.equal(quantiser(x), quantiser(x)) and quantiser.given is None
