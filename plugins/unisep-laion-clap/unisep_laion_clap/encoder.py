"""LAION's CLAP as a query encoder of unisep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisep import Audio, QueryEncoder
from unisep.errors import EncoderError, QueryError, WeightsError

from .checkpoints import find, read_state
from .clips import windows
from .network import build

# What the checkpoints were trained with; longer texts are cut.
N_TOKENS = 77
_PADDING = 1


@final
class LaionClapEncoder(QueryEncoder):
    """A CLAP of LAION, ready to encode.

    Source: Wu et al. 2023, Large-scale contrastive language-audio pretraining (arXiv:2211.06687).
    """

    def __init__(self, model: nn.Module, tokenizer: Any, space: str, device: torch.device) -> None:
        self.space = space
        self._model: Any = model.to(device)
        self._tokenizer = tokenizer
        self._device = device

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self._model.text_projection[-1].out_features)

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit vectors [n, dim], one text at a time, so that company changes nothing.

        Raises QueryError for a text without a letter or digit.
        """
        rows = [self._text(text) for text in texts]
        return torch.cat(rows) if rows else torch.empty(0, self.dim, device=self._device)

    @torch.inference_mode()
    def encode_audio(self, clips: Sequence[Audio]) -> Tensor:
        """Unit vectors [n, dim]: windows of ten seconds, averaged where the clip sounds."""
        rows = [self._clip(clip) for clip in clips]
        return torch.stack(rows) if rows else torch.empty(0, self.dim, device=self._device)

    def _text(self, text: str) -> Tensor:
        if not any(character.isalnum() for character in text):
            raise QueryError(f"The text {text!r} names no sound. Write what to listen for, such as 'piano'.")
        encoded = self._tokenizer.encode(text)
        columns = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask}
        inputs = {name: torch.tensor([values], device=self._device) for name, values in columns.items()}
        return self._checked(self._model.get_text_embedding(inputs))

    def _clip(self, clip: Audio) -> Tensor:
        rows = []
        for window in windows(clip):
            heard = {"waveform": torch.from_numpy(window), "longer": torch.tensor([False])}
            rows.append(self._checked(self._model.get_audio_embedding([heard])))
        return F.normalize(torch.cat(rows).mean(0), dim=-1)

    def _checked(self, vectors: Tensor) -> Tensor:
        if not bool(vectors.isfinite().all()):
            raise EncoderError(f"The encoder of {self.space} gave values that are not finite: its weights are damaged.")
        return vectors.float()


def load(*, weights: Path | None, device: torch.device) -> QueryEncoder:
    """The CLAP of a folder with one `.pt` file and `tokenizer.json`, or of the file with that beside it.

    Raises WeightsError where the checkpoint is missing, unsafe or does not fit, EncoderError without laion-clap.
    """
    checkpoint = find(weights)
    tokenizer = read_tokenizer(checkpoint.tokenizer)
    model = build(read_state(checkpoint.weights), str(checkpoint.weights))
    return LaionClapEncoder(model, tokenizer, checkpoint.space, torch.device(device))


def read_tokenizer(path: Path) -> Any:
    """RoBERTa's tokenizer in `path`, cutting and filling every text to the length of training."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EncoderError(
            "laion-clap's encoders need the package tokenizers. Install it with: pip install 'unisep-laion-clap[laion]'."
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise WeightsError(f"{path} is no tokenizer: {error}.") from error
    tokenizer.enable_truncation(N_TOKENS)
    tokenizer.enable_padding(length=N_TOKENS, pad_id=_PADDING, pad_token="<pad>")
    return tokenizer
