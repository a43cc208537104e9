"""The separation seam: what a loaded backend must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unisep.errors import AudioError, BackendError, EmbeddingError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """Facts of a loaded backend.

    Attributes:
        sources: Names of the fixed outputs, in order; empty when the outputs are one per query.
        sample_rate_hz: The rate at which `separate` takes and returns audio.
        channels: 1 or 2; other inputs are duplicated or averaged on the way in and out.
        segment_seconds: The longest stretch `separate` takes at once; None takes any length at once.
        normalisation: "song" has the host remove the mean and divide by the standard deviation of the whole song's mono
            mix before `separate`, and undo it after (as HT Demucs was trained); "none" passes samples as they are.
        needs_whole: Takes any length, and must hear a recording in one piece: `segment_seconds` of the user, and streams,
            are refused.
        spaces: Where the weights decide that, the embedding spaces whose queries it answers; else the spec says so.
    """

    sources: tuple[str, ...]
    sample_rate_hz: int
    channels: int
    segment_seconds: float | None = None
    normalisation: Literal["none", "song"] = "none"
    needs_whole: bool = False
    spaces: tuple[str, ...] = ()

    @property
    def segment_samples(self) -> int | None:
        """The most samples that `separate` takes at once; None for any number."""
        if self.segment_seconds is None:
            return None
        return max(1, round(self.segment_seconds * self.sample_rate_hz))


@dataclass(frozen=True)
class Output:
    """What `Backend.separate` returns.

    Attributes:
        sources: `[batch, sources or queries, channels, samples]`, the length of the mixture.
        presence: `[batch, queries]` in 0..1, or None where the backend gives none.
    """

    sources: Tensor
    presence: Tensor | None = None


class Backend(ABC):
    """A loaded separation model. Subclass, set `info`, implement `separate`; see `unisep.testing`."""

    info: BackendInfo

    @abstractmethod
    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the sources of each mixture in the batch.

        Args:
            mixture: `[batch, channels, samples]` on the backend's device, at `info.sample_rate_hz`, never longer than
                `info.segment_seconds`; must not be modified.
            queries: `[n, dim]`, one output for each in order, for a backend that answers queries; None asks for the fixed
                sources.
            negatives: `[n, dim]`, what each query must leave out; a row of zeros leaves out nothing.
        """

    def check_input(
        self,
        mixture: Tensor,
        queries: Tensor | None = None,
        negatives: Tensor | None = None,
        query_dim: int | None = None,
    ) -> None:
        """Raise AudioError, BackendError or EmbeddingError for a call that is wrong; `separate` may begin with it.

        `query_dim` is the size of the vectors of a backend that answers queries and nothing else, None for fixed sources.
        """
        name, n_channels, longest = type(self).__name__, self.info.channels, self.info.segment_samples
        if query_dim is None and (queries is not None or negatives is not None):
            raise BackendError(f"{name} gives fixed sources and cannot answer queries; use a query backend.")
        if query_dim is not None and queries is None:
            raise BackendError(f"{name} answers queries only: give query vectors [queries, {query_dim}].")
        if mixture.ndim != 3 or mixture.shape[1] != n_channels or not mixture.shape[2]:
            raise AudioError(
                f"Got a mixture of shape {tuple(mixture.shape)}; {name} takes [batch, {n_channels}, samples] with "
                "at least one sample."
            )
        if longest is not None and mixture.shape[2] > longest:
            raise AudioError(
                f"Got {mixture.shape[2]} samples at once; {name} takes at most {longest}. Cut the recording into "
                "segments of that length."
            )
        for role, vectors in (("queries", queries), ("negatives", negatives)):
            if vectors is not None and (vectors.ndim != 2 or vectors.shape[1] != query_dim):
                raise EmbeddingError(
                    f"Got {role} of shape {tuple(vectors.shape)}; {name} takes vectors [queries, {query_dim}]."
                )
        if queries is not None and negatives is not None and len(queries) != len(negatives):
            raise EmbeddingError(f"{len(queries)} queries need as many negatives, not {len(negatives)}.")

    def for_space(self, space: str) -> Backend:
        """Return this backend ready for queries of `space`; override when several spaces are served."""
        return self

    def for_sources(self, names: tuple[str, ...]) -> Backend:
        """Return a backend that computes at least `names`; override when fewer sources cost less."""
        return self

    def exportable(self) -> tuple[nn.Module, int | None]:
        """Return a module for other runtimes, and the size of the vectors it is asked with, None for fixed sources.

        Of a mixture `[batch, channels, samples]` as long as a segment it makes sources; of that and queries `[n, size]` sources
        and presence `[batch, n]`: what `separate` makes, by steps that do not depend on values. That of a `LiveBackend` maps one hop,
        takes the tensors of a state behind all this and gives the next ones so; `module.initial(n)` returns the first, all zeros.
        Where queries count they are the first axis. Override to let `unisep export` write it.
        """
        raise BackendError(f"{type(self).__name__} cannot be exported: it offers no module for other runtimes.")

    def close(self) -> None:
        """Free what the backend holds. Called once, when its Separator closes."""
        return None


class LiveBackend(Backend):
    """A backend that also takes a recording while it is made, hop by hop.

    All it remembers is in a state, which is the caller's: a value of tensors that `push` never changes and
    `copy.deepcopy` keeps. One backend serves any number of states and threads.

    Attributes:
        hop_samples: `push` takes as many samples at once, or a whole multiple.
        latency_samples: what comes out of `push` is as much older than what goes in. Collecting a hop takes its time besides.
    """

    hop_samples: int
    latency_samples: int

    @abstractmethod
    def open(self, queries: Tensor | None = None, negatives: Tensor | None = None) -> Any:
        """Return the state before the first hop; `queries` and `negatives` are as in `separate`."""

    @abstractmethod
    def push(self, state: Any, block: Tensor) -> tuple[Tensor, Any]:
        """Return the sources `[sources or queries, channels, samples]` for a block, and the next state.

        `block [channels, samples]` is of whole hops, as `info` says, and must be neither modified nor kept.
        """
