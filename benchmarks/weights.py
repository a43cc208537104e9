"""One HT Demucs with random parameters, saved where demucs and unisep look for `htdemucs`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from demucs.htdemucs import HTDemucs
from demucs.states import get_state

SIGNATURE = "955717e8"
STEMS = ("drums", "bass", "other", "vocals")
RELEASED: dict[str, Any] = {
    "bottom_channels": 512, "segment": Fraction(39, 5), "t_heads": 8, "t_layers": 5, "t_hidden_scale": 4.0,
    "dconv_mode": 3,
}  # fmt: skip
TINY: dict[str, Any] = {
    "channels": 8, "bottom_channels": 16, "nfft": 1024, "depth": 3, "segment": Fraction(1), "t_heads": 2,
    "t_layers": 2, "dconv_mode": 3,
}  # fmt: skip


def save_weights(folder: Path, shape: dict[str, Any]) -> Path:
    """Save a model of this shape and return its file: speed does not depend on the values of its parameters.

    LayerScales are drawn from 0.25-0.75: at their initial value the transformer would hardly count, and neither
    would its rounding in the agreement.
    """
    torch.manual_seed(0)
    kwargs = {"sources": list(STEMS), **shape}
    model = HTDemucs(**kwargs).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("scale"):
                parameter.uniform_(0.25, 0.75, generator=generator)
    package = {"klass": HTDemucs, "args": (), "kwargs": kwargs, "state": get_state(model, None)}
    path = folder / f"{SIGNATURE}.th"
    torch.save(package, path)
    (folder / "htdemucs.yaml").write_text(f"models: ['{SIGNATURE}']\n")
    return path
