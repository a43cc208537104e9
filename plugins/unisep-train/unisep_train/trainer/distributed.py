"""One process or several: which share is whose, on which device, and what all know together.

torchrun starts several and tells each its rank in the environment:

    torchrun --nproc-per-node 8 -m unisep_train train STORE RUN --config recipe.json
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unisep.errors import OptionError


@dataclass(frozen=True)
class Place:
    """Where a process of a run stands: its rank among `n_ranks`, and its device."""

    rank: int = 0
    n_ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def share(self, n_items: int) -> range:
        """Return the items of a batch that are this process's. Raises OptionError when they cannot be shared evenly."""
        n, left_over = divmod(n_items, self.n_ranks)
        if left_over:
            raise OptionError(
                f"A batch of {n_items} cannot be shared evenly by {self.n_ranks} processes. "
                f"Make mix.batch a multiple of {self.n_ranks}."
            )
        return range(self.rank * n, (self.rank + 1) * n)

    def averaging(self, module: nn.Module, *, some_reach_nothing: bool = False) -> nn.Module:
        """Return the module with gradients averaged over all processes in every backward pass.

        Only parameters that are being trained take part: wrap again when that changes. `some_reach_nothing`: of those
        some change no output.
        """
        if self.n_ranks == 1:
            return module
        on_gpu = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=on_gpu, find_unused_parameters=some_reach_nothing)

    def gathered(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the values `[n]` of all processes one after another, in the order of their ranks."""
        here = {name: value.detach().float().cpu() for name, value in values.items()}
        if self.n_ranks == 1:
            return here
        parts: list[dict[str, Tensor]] = [{} for _ in range(self.n_ranks)]
        dist.all_gather_object(parts, here)
        return {name: torch.cat([part[name] for part in parts]) for name in here}

    def agreed(self, wish: bool) -> bool:
        """Return what the first process wishes, so that all stop at the same step."""
        if self.n_ranks == 1:
            return wish
        flag = torch.tensor([wish], dtype=torch.int32, device=self.device)
        dist.broadcast(flag, src=0)
        return bool(flag.item())

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.n_ranks > 1:
            dist.barrier()


@contextmanager
def joined(device: str = "auto") -> Iterator[Place]:
    """Work with the other processes that torchrun has started, if it has.

    The device is "cuda", "cpu", or "auto" for whichever is there; each process of a machine has a GPU of its own.
    """
    n_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    on_gpu = device == "cuda" or (device == "auto" and n_cuda > 0)
    if on_gpu and local_rank >= n_cuda:
        raise OptionError(f"Process {local_rank} of this machine has no GPU of its own: torch sees {n_cuda}.")
    place_device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place_device)
    if n_ranks == 1:
        yield Place(device=place_device)
        return
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Place(dist.get_rank(), n_ranks, place_device)
    finally:
        dist.destroy_process_group()
