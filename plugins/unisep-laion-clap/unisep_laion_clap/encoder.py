"""LAION's CLAP as a query encoder of unisep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unisep import Audio, QueryEncoder
from unisep.errors import EncoderError, QueryError, WeightsError

from .checkpoints import build, find, read_state

# What the checkpoints were trained with; longer texts are cut.
N_TOKENS = 77
_PADDING = 1
SAMPLE_RATE_HZ = 48_000
WINDOW_SAMPLES = 480_000
# A window this far below the loudest one is a pause, and would only blur the average.
QUIET_BELOW_DB = -40.0
_FULL_SCALE = 32767.0

Samples = NDArray[np.float32]


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
        """Encode texts to unit vectors `[n, dim]`, one at a time, so that company changes nothing.

        Raises:
            QueryError: A text has no letter or digit.
        """
        rows = [self._text(text) for text in texts]
        return torch.cat(rows) if rows else torch.empty(0, self.dim, device=self._device)

    @torch.inference_mode()
    def encode_audio(self, clips: Sequence[Audio]) -> Tensor:
        """Encode clips to unit vectors `[n, dim]`: windows of ten seconds, averaged where the clip sounds."""
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
            inputs = {"waveform": torch.from_numpy(window), "longer": torch.tensor([False])}
            rows.append(self._checked(self._model.get_audio_embedding([inputs])))
        return F.normalize(torch.cat(rows).mean(0), dim=-1)

    def _checked(self, vectors: Tensor) -> Tensor:
        if not bool(vectors.isfinite().all()):
            raise EncoderError(f"The encoder of {self.space} gave values that are not finite: its weights are damaged.")
        return vectors.float()


def windows(clip: Audio) -> list[Samples]:
    """Cut a clip of any kind into windows `[WINDOW_SAMPLES]` of ten seconds, rounded to 16 bits as in training.

    A short clip is repeated as often as it fits, then filled up with zeros. Of a long one, windows that overlap by half
    are kept where it sounds; laion-clap itself takes one at random.
    """
    mono = np.asarray(soxr.resample(clip.samples.mean(0), clip.sample_rate_hz, SAMPLE_RATE_HZ), np.float32)
    steps = ((mono if len(mono) else np.zeros(1, np.float32)).clip(-1, 1) * _FULL_SCALE).astype(np.int16)
    rounded = steps.astype(np.float32) / np.float32(_FULL_SCALE)
    if len(rounded) <= WINDOW_SAMPLES:
        repeated = np.tile(rounded, WINDOW_SAMPLES // len(rounded))
        return [np.pad(repeated, (0, WINDOW_SAMPLES - len(repeated)))]
    last = len(rounded) - WINDOW_SAMPLES
    starts = [*range(0, last, WINDOW_SAMPLES // 2), last]
    parts = [rounded[start : start + WINDOW_SAMPLES] for start in starts]
    levels = [float(np.square(part).mean()) for part in parts]
    audible = max(levels) * 10 ** (QUIET_BELOW_DB / 10)
    return [part for part, level in zip(parts, levels, strict=True) if level >= audible]


def load(*, weights: Path | None, device: torch.device) -> QueryEncoder:
    """Load the CLAP of a folder with one `.pt` file and `tokenizer.json`, or of the file with that beside it.

    Raises:
        WeightsError: The checkpoint is missing, unsafe or does not fit.
        EncoderError: laion-clap is not installed, or cannot be imported here.
    """
    checkpoint = find(weights)
    tokenizer = read_tokenizer(checkpoint.tokenizer)
    model = build(read_state(checkpoint.weights), str(checkpoint.weights))
    return LaionClapEncoder(model, tokenizer, checkpoint.space, torch.device(device))


def read_tokenizer(path: Path) -> Any:
    """Read RoBERTa's tokenizer, which cuts and fills every text to the length of training."""
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
