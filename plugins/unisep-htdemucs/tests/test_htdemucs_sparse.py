"""Sparse attention computes the part of the pairs that was asked for, and nothing else of it differs from the dense one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from unisep_htdemucs import sparse
from unisep_htdemucs.checkpoints import build_model, read_checkpoint
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs
from unisep_htdemucs.saving import save_checkpoint

from unisep.errors import WeightsError

SPARSE = {"t_sparse_self_attn": True, "t_sparse_cross_attn": True, "t_auto_sparsity": True, "t_sparsity": 0.8}
Music = Callable[..., Tensor]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed))


def chosen(q: Tensor, k: Tensor, sparsity: float, seed: int = 42, n_queries: int = sparse.N_QUERIES) -> Tensor:
    """The pairs that are computed, as a mask `[g, n, m]`."""
    kept = sparse.n_kept(k.shape[1], sparsity)
    blocks, seen = sparse.pairs(q, k, kept, seed, n_queries)
    mask = torch.zeros(len(q), q.shape[1], k.shape[1], dtype=torch.bool)
    for item in range(len(q)):
        for queries, keys in zip(blocks[item], seen[item], strict=True):
            mask[item, queries[:, None], keys] = True
    return mask


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    """Fewer keys than queries, neither in whole blocks."""
    return random(2, 3, 150, 16), random(2, 3, 110, 16), random(2, 3, 110, 16, seed=1)


@pytest.fixture
def models() -> Callable[..., tuple[HTDemucs, HTDemucs]]:
    """A dense and a sparse model of the same parameters, whose attention is heard."""

    def make(**options: Any) -> tuple[HTDemucs, HTDemucs]:
        shape: dict[str, Any] = {
            "sources": ("a", "b"), "channels": 8, "depth": 2, "nfft": 512, "t_layers": 3, "t_heads": 2,
            "segment": 0.25, "t_layer_scale_init": 1.0,
        }  # fmt: skip
        torch.manual_seed(0)
        dense = HTDemucs(HTDemucsConfig(**shape)).eval()
        thin = HTDemucs(HTDemucsConfig(**shape | SPARSE | options)).eval()
        thin.load_state_dict(dense.state_dict())
        return dense, thin

    return make


@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.999])
def test_it_is_attention_over_the_chosen_pairs(qkv: tuple[Tensor, ...], sparsity: float) -> None:
    q, k, v = qkv
    mask = chosen(q.flatten(0, 1), k.flatten(0, 1), sparsity).view(2, 3, 150, 110)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(sparse.sparse_attention(q, k, v, sparsity, 42), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("sparsity", "kept"), [(0.0, 110), (0.5, 55), (0.9, 11), (0.95, 6), (0.9999, 1)])
def test_every_query_sees_the_part_that_sparsity_leaves(qkv: tuple[Tensor, ...], sparsity: float, kept: int) -> None:
    q, k, _ = (x.flatten(0, 1) for x in qkv)
    assert chosen(q, k, sparsity).sum(-1).eq(kept).all()


def test_blocks_of_one_query_keep_the_keys_that_share_most_buckets(qkv: tuple[Tensor, ...]) -> None:
    q, k, _ = (x.flatten(0, 1) for x in qkv)
    of_queries, of_keys = sparse.buckets(q, 42), sparse.buckets(k, 42)
    n_shared = (of_queries[:, :, None] == of_keys[:, None]).sum(-1)
    mask = chosen(q, k, 0.9, n_queries=1)
    least_kept = n_shared.masked_fill(~mask, 99).amin(-1)
    assert (n_shared.masked_fill(mask, -1).amax(-1) <= least_kept).all()
    assert of_queries.max() == 3 and of_queries.shape[-1] == 32


def test_what_is_kept_scores_higher_than_what_is_not() -> None:
    q = random(1, 512, 32)
    k = q[:, torch.randperm(512, generator=torch.Generator().manual_seed(0))]
    scores = q @ k.mT
    for n_queries in (1, sparse.N_QUERIES):
        mask = chosen(q, k, 0.9, n_queries=n_queries)
        assert scores[mask].mean() > scores[~mask].mean() + 0.1 * scores.std()


def test_all_pairs_in_blocks_are_dense_attention(qkv: tuple[Tensor, ...]) -> None:
    q, k, v = (x.flatten(0, 1) for x in qkv)
    heads = sparse._attend(q, k, v, *sparse.pairs(q, k, 110, 42), 0.0)
    torch.testing.assert_close(heads, F.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_model_at_sparsity_0_is_the_dense_one(models: Callable[..., Any], music: Music) -> None:
    dense, thin = models(t_sparsity=0.0)
    assert torch.equal(thin(music(11025)), dense(music(11025)))
    dense, thin = models(t_sparse_cross_attn=False, t_sparse_self_attn=False)
    assert torch.equal(thin(music(11025)), dense(music(11025)))


@torch.inference_mode()
@pytest.mark.parametrize("off", ["t_sparse_self_attn", "t_sparse_cross_attn"])
def test_self_and_cross_attention_are_sparse_apart(models: Callable[..., Any], music: Music, off: str) -> None:
    dense, thin = models(**{off: False})
    both = models()[1]
    outputs = [model(music(11025)) for model in (dense, thin, both)]
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])


@torch.inference_mode()
def test_the_seed_decides_and_nothing_else_is_random(models: Callable[..., Any], music: Music) -> None:
    before = torch.get_rng_state()
    out = sparse.sparse_attention(*(random(1, 2, 130, 8, seed=s) for s in range(3)), 0.8, 42)
    again = sparse.sparse_attention(*(random(1, 2, 130, 8, seed=s) for s in range(3)), 0.8, 42)
    other = sparse.sparse_attention(*(random(1, 2, 130, 8, seed=s) for s in range(3)), 0.8, 43)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(out, again)
    assert not torch.equal(out, other)
    one, two = (models(t_mask_random_seed=seed)[1](music(11025)) for seed in (1, 2))
    assert not torch.equal(one, two)


@torch.inference_mode()
@pytest.mark.parametrize("most_gathered", [1, 1 << 22])
def test_a_batch_is_its_items(
    models: Callable[..., Any], music: Music, monkeypatch: pytest.MonkeyPatch, most_gathered: int
) -> None:
    monkeypatch.setattr(sparse, "_MOST_GATHERED", most_gathered)
    _, thin = models()
    batch = music(11025, batch=3)
    apart = torch.cat([thin(item[None]) for item in batch])
    torch.testing.assert_close(thin(batch), apart, atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_the_chosen_pairs(qkv: tuple[Tensor, ...]) -> None:
    given = [x.clone().requires_grad_() for x in qkv]
    sparse.sparse_attention(*given, 0.9, 42).square().sum().backward()
    again = [x.clone().requires_grad_() for x in qkv]
    mask = chosen(qkv[0].flatten(0, 1), qkv[1].flatten(0, 1), 0.9).view(2, 3, 150, 110)
    F.scaled_dot_product_attention(*again, attn_mask=mask).square().sum().backward()
    for one, other in zip(given, again, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)


def test_dropout_falls_alike_on_both_ways(qkv: tuple[Tensor, ...]) -> None:
    q, k, v = qkv
    v = v.clone().requires_grad_()
    torch.manual_seed(0)
    out = sparse.sparse_attention(q, k, v, 0.9, 42, dropout=0.5)
    out.sum().backward()
    assert not torch.allclose(out, sparse.sparse_attention(q, k, v, 0.9, 42))
    assert v.grad is not None
    torch.testing.assert_close((v.grad * v).sum(), out.sum(), atol=1e-3, rtol=1e-4)  # the output is linear in v


@torch.no_grad()
def test_no_tensor_has_a_place_for_every_pair() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                if isinstance(x, Tensor):
                    Largest.numel = max(Largest.numel, x.numel())
            return out

    q, k, v = (random(1, 1, 2048, 16, seed=s) for s in range(3))
    with Largest():
        sparse.sparse_attention(q, k, v, 0.95, 42)
    assert 2048 * 16 < Largest.numel <= 2048 * 2048 // 8


def test_bfloat16_of_a_training_step_changes_no_hash() -> None:
    q, k = random(2, 96, 16), random(2, 96, 16, seed=1)
    plain = sparse.pairs(q, k, 9, 42)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = sparse.pairs(q, k, 9, 42)
    assert all(map(torch.equal, plain, mixed))


@torch.inference_mode()
def test_a_checkpoint_says_that_it_is_sparse(models: Callable[..., Any], music: Music, tmp_path: Path) -> None:
    _, thin = models()
    path = save_checkpoint(tmp_path / "thin.safetensors", thin.config, thin.state_dict())
    again = build_model(read_checkpoint(path), torch.device("cpu"), torch.float32)
    assert (again.config.self_sparsity, again.config.cross_sparsity) == (0.8, 0.8)
    assert torch.equal(again(music(11025)), thin(music(11025)))


def test_fixed_masks_are_refused_with_advice() -> None:
    with pytest.raises(WeightsError, match=r"t_mask_type.*Set t_auto_sparsity=True"):
        HTDemucsConfig.from_kwargs({"sources": ["a"], "t_sparse_self_attn": True, "t_mask_type": "diag"})
