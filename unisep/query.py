"""What is asked for: Embedding (a vector with its space) and Query."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisep.errors import EmbeddingError


@dataclass(frozen=True, eq=False)
class Embedding:
    """A query as a vector: `vector` [dim] float32, the `space` it lives in, and where it came from.

    A backend that does not know `space` refuses before its weights load. Portable: `save` writes one
    safetensors file that holds all three.

    Raises:
        EmbeddingError: not one-dimensional, empty, all zeros, not finite, or without a space.
    """

    vector: NDArray[np.float32]
    space: str
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values: Any = self.vector
        detach = getattr(values, "detach", None)
        values = detach().cpu() if callable(detach) else values
        try:
            vector = np.asarray(values, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise EmbeddingError(f"An embedding is a vector of numbers; this is not: {error}") from error
        if vector.ndim == 2 and vector.shape[0] == 1:
            vector = vector[0]
        if vector.ndim != 1 or vector.size == 0:
            raise EmbeddingError(f"An embedding is one vector [dim]; got shape {vector.shape}.")
        if not np.isfinite(vector).all() or not vector.any():
            raise EmbeddingError("An embedding must be finite and not all zeros.")
        if not isinstance(self.space, str) or not self.space:
            raise EmbeddingError("An embedding needs the name of its space, such as 'clap-mini-1'.")
        object.__setattr__(self, "vector", vector)

    @property
    def dim(self) -> int:
        """Length of the vector."""
        return int(self.vector.shape[0])

    def save(self, path: str | Path) -> Path:
        """The path written: a safetensors file with the vector, its space and its provenance."""
        from safetensors.numpy import save_file

        path = Path(path)
        metadata = {"space": self.space, "provenance": json.dumps(self.provenance)}
        partial = path.with_name(path.name + ".part")
        save_file({"embedding": np.ascontiguousarray(self.vector)}, partial, metadata=metadata)
        return partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Embedding:
        """The embedding saved at `path`. Raises EmbeddingError when the file is missing or no embedding."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(Path(path), framework="numpy") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                vector = file.get_tensor("embedding")
            provenance = json.loads(metadata.get("provenance", "{}"))
            return cls(vector, metadata.get("space", ""), dict(provenance))
        except (OSError, SafetensorError, ValueError) as error:
            if isinstance(error, EmbeddingError):
                raise
            raise EmbeddingError(
                f"{path} is no unisep embedding ({error}). Make one with: unisep embed 'a text' -o query.safetensors"
            ) from error
