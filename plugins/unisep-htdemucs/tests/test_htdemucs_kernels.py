"""The short cuts of the CPU give what torch's own operators give, and are taken only where they may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from demucs.states import get_state
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_htdemucs import kernels
from unisep_htdemucs.checkpoints import build_model, read_checkpoint
from unisep_htdemucs.model import HTDemucs

CPU = torch.device("cpu")
Reference = Callable[..., Any]
Ours = Callable[..., HTDemucs]
Music = Callable[..., Tensor]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


@pytest.fixture(params=["chosen for this processor", "oneDNN", "torch's own"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way of computing products, whichever this processor would take."""
    if request.param == "oneDNN":
        if not torch.backends.mkldnn.is_available():
            pytest.skip("this torch has no oneDNN")
        monkeypatch.setattr(kernels, "_DTYPES", (torch.float32,))
    elif request.param == "torch's own":
        monkeypatch.setattr(kernels, "_DTYPES", ())


@torch.no_grad()
@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("n_queries", [1, 336, 700])
def test_attention_equals_torchs(n_queries: int) -> None:
    q, k, v = random(2, 3, n_queries, 16), random(2, 3, 400, 16), random(2, 3, 400, 16)
    assert near(kernels.attention(q, k, v), F.scaled_dot_product_attention(q, k, v))


@torch.no_grad()
@pytest.mark.usefixtures("route")
def test_products_equal_torchs() -> None:
    x, weight, bias = random(2, 50, 24), random(40, 24), random(40)
    assert near(kernels.linear(x, weight, bias), F.linear(x, weight, bias))
    assert near(kernels.linear(x, weight), F.linear(x, weight))
    narrow = nn.Conv1d(24, 40, 1)
    for batch in (1, 3):
        y = random(batch, 24, 100)
        assert near(kernels.pointwise(narrow, y), narrow(y))


@torch.no_grad()
@pytest.mark.parametrize("dims", [1, 2])
def test_transposed_convolutions_equal_torchs(dims: int) -> None:
    convolution = nn.ConvTranspose1d(6, 5, 8, 4) if dims == 1 else nn.ConvTranspose2d(6, 5, (8, 1), (4, 1))
    x = random(2, 6, 30, 7) if dims == 2 else random(2, 6, 30)
    out = kernels.transposed(convolution, x)
    assert near(out, convolution(x)) and out.is_contiguous()


@pytest.mark.parametrize("with_autocast", [False, True])
@pytest.mark.parametrize("channels", [2, 4, 8, 12, 16, 48])
def test_strided_convolutions_of_any_width_are_right_in_bfloat16(channels: int, with_autocast: bool) -> None:
    """AMX processors gave noise for 8 and 12 channels."""
    if not kernels.computes_bfloat16():
        pytest.skip("this processor does not compute in bfloat16")
    torch.manual_seed(0)
    line, plane = nn.Conv1d(channels, 16, 8, 4, 2), nn.Conv2d(channels, 16, (8, 1), (4, 1), (2, 0))
    for convolution, x in ((line, torch.randn(1, channels, 3308)), (plane, torch.randn(1, channels, 256, 26))):
        with torch.inference_mode():
            exact = convolution(x)
            with torch.autocast("cpu", torch.bfloat16, enabled=with_autocast):
                module = convolution if with_autocast else convolution.bfloat16()
                rounded = kernels.strided(module, x if with_autocast else x.bfloat16())
        assert rounded.dtype == torch.bfloat16
        assert float((rounded.float() - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize("most_scores", [1, kernels._MOST_SCORES])
def test_attention_that_learns_in_bfloat16_agrees_with_float32(
    monkeypatch: pytest.MonkeyPatch, most_scores: int
) -> None:
    """By head and, where the scores would be too many to keep, by torch's own; back and forth."""
    monkeypatch.setattr(kernels, "_DTYPES", (torch.float32, torch.bfloat16))
    monkeypatch.setattr(kernels, "_MOST_SCORES", most_scores)
    found, wanted = [], []
    for dtype, out in ((torch.bfloat16, found), (torch.float32, wanted)):
        # as in the model: views into one product, heads last but one
        given = [random(2, n, 3, 16).mul(1.5).bfloat16().to(dtype).requires_grad_() for n in (50, 40, 40)]
        heard = kernels.attention(*(x.transpose(1, 2) for x in given))
        heard.backward(random(2, 3, 50, 16).to(dtype))
        out += [heard, *(x.grad for x in given)]
    for ours, exact in zip(found, wanted, strict=True):
        assert ours.shape == exact.shape and ours.dtype == torch.bfloat16
        assert (ours.float() - exact).norm() < 0.02 * exact.norm()


def test_gradients_flow_where_they_are_wanted() -> None:
    weight = random(8, 8).requires_grad_()
    kernels.linear(random(4, 8), weight).sum().backward()
    assert weight.grad is not None


@torch.no_grad()
@pytest.mark.parametrize("context", [0, 1, 2])
def test_frequencies_taken_in_parts_equal_all_at_once(monkeypatch: pytest.MonkeyPatch, context: int) -> None:
    layer = nn.Conv2d(3, 3, (2 * context + 1, 1), padding=(context, 0))
    x = random(2, 3, 37, 5)
    seen: list[int] = []

    def watched(part: Tensor) -> Tensor:
        seen.append(part.shape[2])
        out: Tensor = layer(part)
        return out

    monkeypatch.setattr(kernels, "_LARGEST_KEPT", 100)
    monkeypatch.setattr(kernels, "_TILE", 300)
    assert near(kernels.by_frequency(watched, x, 3, context), layer(x))
    assert len(seen) > 2 and max(seen) < 37


@torch.inference_mode()
@pytest.mark.usefixtures("route")
def test_a_model_taken_in_parts_equals_the_reference(
    monkeypatch: pytest.MonkeyPatch, reference: Reference, ours: Ours, music: Music
) -> None:
    model, mixture = reference(), music(13230, batch=2)
    monkeypatch.setattr(kernels, "_LARGEST_KEPT", 1000)
    monkeypatch.setattr(kernels, "_TILE", 2000)
    mine, theirs = ours(model)(mixture), model(mixture)
    assert float((mine - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())


@torch.inference_mode()
def test_bfloat16_on_the_cpu_keeps_the_streams_in_float32(tmp_path: Path, reference: Reference, music: Music) -> None:
    model = reference()
    args, kwargs = model._init_args_kwargs
    package = {"klass": type(model), "args": args, "kwargs": kwargs, "state": get_state(model, None)}
    torch.save(package, tmp_path / "one.th")
    checkpoint, mixture = read_checkpoint(tmp_path / "one.th"), music(13230)
    full = build_model(checkpoint, CPU, torch.float32)(mixture).double()
    half_model = build_model(checkpoint, CPU, torch.bfloat16)
    half = half_model(mixture).double()
    agreement_db = 10 * float(torch.log10(full.square().sum() / (full - half).square().sum()))
    assert 40 <= agreement_db < 90
    dtypes = {name: parameter.dtype for name, parameter in half_model.named_parameters()}
    assert dtypes["crosstransformer.layers.0.linear1.weight"] == torch.bfloat16
    assert dtypes["encoder.0.conv.weight"] == dtypes["decoder.3.conv_tr.weight"] == torch.float32


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError])
def test_a_torch_without_the_operator_is_served_by_its_own(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def gone(*_: Any) -> Tensor:
        raise error("no such operator")

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(kernels, "_product", gone)
    assert kernels._fast_dtypes() == ()
    monkeypatch.setattr(kernels, "_DTYPES", ())
    x, weight = random(3, 4), random(5, 4)
    with torch.no_grad():
        assert torch.equal(kernels.linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
def test_products_stay_with_torch_where_it_is_faster(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert kernels._fast_dtypes() == ()


def test_a_wrong_product_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(kernels, "_product", lambda x, weight, bias: torch.zeros(2, 2))
    assert kernels._fast_dtypes() == ()
