"""The separation seam: what a backend plugin declares, and what it must do.

Importing this module loads neither torch nor numpy, so that a plugin's hook module stays light.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

PLUGIN_API = 1
PRECISIONS = frozenset({"float32", "bfloat16", "float16"})


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """What can be known of a backend without importing it.

    name: what the user asks for ("htdemucs"). Lower-case letters, digits, `-`, `_`, `.`.
    load: "package.module:function", imported only on use. The function is called as
        `load(weights=Path | None, device=torch.device, dtype=torch.dtype)` and returns a `Backend`;
        `weights` is the user's file or folder, or the folder that holds the card's verified files.
    summary: one line for listings.
    stems: the fixed sources it gives, in order; empty for a backend that only answers queries.
    spaces: embedding spaces it understands; non-empty means that it answers queries.
    licence: of the weights, an SPDX name or "not stated".
    plugin_api: the version of this contract that the plugin was written for.
    card: "package:path/to/card.toml", the weights' card; empty for a backend without weights.
    auto_precision: kind of device -> "bfloat16" or "float16", the type that `precision="auto"` may take there: it is
        faster, and the results agree with float32 by 40 dB or more. Float32 for kinds that are left out.
    """

    name: str
    load: str
    summary: str
    stems: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ()
    licence: str = ""
    plugin_api: int = PLUGIN_API
    card: str = ""
    auto_precision: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """Facts of a loaded backend.

    sources: names of the fixed outputs, in order; empty when the outputs are one per query.
    sample_rate_hz: the rate at which `separate` takes and returns audio.
    channels: 1 or 2; other inputs are duplicated or averaged on the way in and out.
    segment_seconds: the longest stretch `separate` takes at once; None takes any length at once.
    normalisation: "song" has the host remove the mean and divide by the standard deviation of the
        whole song's mono mix before `separate`, and undo it after (as HT Demucs was trained);
        "none" passes samples as they are.
    """

    sources: tuple[str, ...]
    sample_rate_hz: int
    channels: int
    segment_seconds: float | None = None
    normalisation: Literal["none", "song"] = "none"


@dataclass(frozen=True)
class Output:
    """What `Backend.separate` returns.

    sources: `[batch, sources or queries, channels, samples]`, the length of the mixture.
    presence: `[batch, queries]` in 0..1, or None where the backend gives none.
    """

    sources: Tensor
    presence: Tensor | None = None


class Backend(ABC):
    """A loaded separation model. Subclass, set `info`, implement `separate`; see `unisep.testing`."""

    info: BackendInfo

    @abstractmethod
    def separate(
        self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None
    ) -> Output:
        """The sources of each mixture in the batch.

        mixture: `[batch, channels, samples]` on the backend's device, at `info.sample_rate_hz`, never
            longer than `info.segment_seconds`; must not be modified.
        queries: `[n, dim]`, one output for each in order, for a backend that answers queries;
            None asks for the fixed sources.
        negatives: `[n, dim]`, what each query must leave out; a row of zeros leaves out nothing.
        """

    def for_space(self, space: str) -> Backend:
        """This backend, ready for queries of `space`; override when several spaces are served."""
        return self

    def for_sources(self, names: tuple[str, ...]) -> Backend:
        """A backend that computes at least `names`; override when fewer sources cost less."""
        return self

    def close(self) -> None:
        """Free what the backend holds. Called once, when its Separator closes."""
        return None
