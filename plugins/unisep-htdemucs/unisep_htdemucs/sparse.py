"""Sparse attention by locality-sensitive hashing, after the sparse HT Demucs of Rouard, Massa and Defossez (2022).

Queries and keys are hashed in 32 rounds, each into one of 4 buckets; two that share many buckets tend to have a high
score. The paper keeps the pairs that share most, one by one, which takes GPU kernels of its own. Here 64 queries of
like buckets form a block, and each block keeps the keys that share most buckets with its queries, all of them
together; what remains are plain products of blocks. With blocks of one query it is the paper's rule, with as many keys
for every query.

Axes: g items of the batch times heads, n queries, m keys, c channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .kernels import attention

N_ROUNDS = 32
N_BUCKETS = 4
N_QUERIES = 64  # of a block
_N_ROUNDS_SORTED = 8  # rounds that decide which queries stand together
_MOST_GATHERED = 1 << 20  # numbers of keys and values that are gathered at once, unless one head needs more


def n_kept(n_keys: int, sparsity: float) -> int:
    """Return how many keys each query sees: of `n_keys`, the part that `sparsity` leaves, and one at least.

    >>> n_kept(2688, 0.9)
    269
    """
    return max(1, round((1 - sparsity) * n_keys))


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, sparsity: float, seed: int, dropout: float = 0.0, n_queries: int = N_QUERIES
) -> Tensor:
    """Attend with queries `q [b, h, n, c]` to `v` by keys `k [b, h, m, c]`, each query to some of them.

    Where every key is kept this is `attention`. While training, the gathered keys and values are not held for the way
    back but gathered again.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        sparsity: Part of the pairs that is left out, 0 to below 1.
        seed: Decides the hash; nothing else is random.
        dropout: Part of the weights that is dropped.
        n_queries: Queries of a block.
    """
    n, m, channels = q.shape[-2], k.shape[-2], q.shape[-1]
    kept = n_kept(m, sparsity)
    if kept == m:
        return attention(q, k, v, dropout)
    n_gathered = 2 * -(-n // n_queries) * kept * channels
    groups = (x.flatten(0, 1).split(max(1, _MOST_GATHERED // n_gathered)) for x in (q, k, v))
    attended = []
    for queries, keys, values in zip(*groups, strict=True):
        blocks, seen = pairs(queries, keys, kept, seed, n_queries)
        if torch.is_grad_enabled():
            heads = checkpoint(
                _attend, queries, keys, values, blocks, seen, dropout,
                use_reentrant=False, preserve_rng_state=dropout > 0,
            )  # fmt: skip
        else:
            heads = _attend(queries, keys, values, blocks, seen, dropout)
        attended.append(heads)
    return torch.cat(attended).view(q.shape)


@torch.no_grad()
def pairs(q: Tensor, k: Tensor, kept: int, seed: int, n_queries: int = N_QUERIES) -> tuple[Tensor, Tensor]:
    """Choose the pairs to compute for `q [g, n, c]` and `k [g, m, c]`.

    Returns:
        The queries of each block `[g, blocks, n_queries]`, every query once, the last one more often to fill the last
        block; and the keys that a block sees `[g, blocks, kept]`, ascending.
    """
    with torch.autocast(q.device.type, enabled=False):
        of_queries, of_keys = buckets(q, seed), buckets(k, seed)
        places = N_BUCKETS ** torch.arange(_N_ROUNDS_SORTED, device=q.device)
        order = (of_queries[..., :_N_ROUNDS_SORTED] * places).sum(-1).argsort(dim=-1, stable=True)
        order = torch.cat([order, order[:, -1:].expand(-1, -order.shape[1] % n_queries)], dim=1)
        blocks = order.unflatten(1, (-1, n_queries))
        members = _rows(_one_hot(of_queries), blocks).sum(2)  # how many queries of the block are in each bucket
        n_shared = (members @ _one_hot(of_keys).mT).long()  # whole numbers, exact in float32
        m = k.shape[1]
        ranks = n_shared * m - torch.arange(m, device=q.device)  # of equal ones the earlier key comes first
        return blocks, ranks.topk(kept, dim=-1).indices.sort(dim=-1).values


def buckets(x: Tensor, seed: int) -> Tensor:
    """Hash `x [g, n, c]` into buckets `[g, n, rounds]`: of two random directions and their opposites the nearest."""
    generator = torch.Generator("cpu").manual_seed(seed)
    directions = torch.randn(x.shape[-1], N_ROUNDS * N_BUCKETS // 2, generator=generator, device="cpu")
    one, two = (x.float() @ directions.to(x.device)).chunk(2, dim=-1)
    is_two = two.abs() > one.abs()
    return is_two + 2 * (torch.where(is_two, two, one) < 0)


def _one_hot(of_tokens: Tensor) -> Tensor:
    return F.one_hot(of_tokens, N_BUCKETS).flatten(2).float()


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Return the rows of `x [g, n, c]` at `places [g, ...]`."""
    return x[torch.arange(len(x), device=x.device).view(-1, *[1] * (places.dim() - 1)), places]


def _attend(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, seen: Tensor, dropout: float) -> Tensor:
    attended = F.scaled_dot_product_attention(_rows(q, blocks), _rows(k, seen), _rows(v, seen), dropout_p=dropout)
    back = blocks.flatten(1)[:, : q.shape[1]].argsort(dim=-1)
    return _rows(attended.flatten(1, 2), back)
