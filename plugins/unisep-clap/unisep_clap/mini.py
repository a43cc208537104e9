"""`clap-mini`: the embedded encoder. Text and audio towers that share the space `clap-mini-1`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import final

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from unisep import Audio, QueryEncoder
from unisep.errors import QueryError, WeightsError
from unisep.weights.checkpoints import filled, read_safetensors
from unisep_clap.audio_tower import AudioTower, AudioTowerConfig
from unisep_clap.text_tower import TextTower, TextTowerConfig, pad
from unisep_clap.windows import loud_windows
from unisep_clap.wordpiece import WordPiece

SPACE = "clap-mini-1"
WEIGHTS_FILE = "clap_mini.safetensors"
VOCABULARY_FILE = "vocab.txt"


@final
class MiniEncoder(QueryEncoder):
    """The embedded towers, ready to encode.

    Attributes:
        tokens: the word pieces that texts are made of.
        text_tower: encodes them.
    """

    space = SPACE

    def __init__(self, tokens: WordPiece, text: TextTower, audio: AudioTower, device: torch.device) -> None:
        self.tokens = tokens
        self.text_tower = text.to(device).eval()
        self._audio = audio.to(device).eval()
        self._device = device

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.text_tower.config.n_dims

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Return unit vectors `[n, dim]`, one phrase at a time, so that company changes nothing.

        Raises QueryError for a text without a letter or digit.
        """
        rows = [self.text_tower(*self._padded(text)) for text in texts]
        return torch.cat(rows) if rows else torch.empty(0, self.dim, device=self._device)

    @torch.inference_mode()
    def encode_audio(self, clips: Sequence[Audio]) -> Tensor:
        """Return unit vectors `[n, dim]`: windows of three seconds, averaged where the clip sounds."""
        rows = [self._encode_clip(clip.samples.mean(0), clip.sample_rate_hz) for clip in clips]
        return torch.stack(rows) if rows else torch.empty(0, self.dim, device=self._device)

    def _padded(self, text: str) -> tuple[Tensor, Tensor]:
        if not any(character.isalnum() for character in text):
            raise QueryError(f"The text {text!r} names no sound. Write what to listen for, such as 'piano'.")
        ids, present = pad([self.tokens.encode(text)], self.tokens.padding_id)
        return ids.to(self._device), present.to(self._device)

    def _encode_clip(self, samples: NDArray[np.float32], rate_hz: int) -> Tensor:
        config = self._audio.config
        mono = np.ascontiguousarray(soxr.resample(samples, rate_hz, config.mel.sample_rate_hz), np.float32)
        windows = loud_windows(mono, config.window_samples)
        vectors = torch.cat([self._audio(torch.from_numpy(w[None]).to(self._device)) for w in windows])
        return F.normalize(vectors.mean(0), dim=-1)


def load_mini(weights: Path | None = None, device: torch.device | str = "cpu") -> MiniEncoder:
    """Build the encoder with the embedded weights, or with those of a file or folder given.

    The vocabulary is the one beside the weights, or the embedded one where there is none.

    Raises WeightsError when the file is missing, damaged or does not fit.
    """
    folder = Path(str(resources.files("unisep_clap").joinpath("data")))
    file = folder / WEIGHTS_FILE if weights is None else Path(weights)
    file = file / WEIGHTS_FILE if file.is_dir() else file
    beside = file.with_name(VOCABULARY_FILE)
    pieces = _pieces(beside if beside.is_file() else folder / VOCABULARY_FILE)
    tokens = WordPiece(pieces)
    state = read_safetensors(file)[0]

    def towers() -> nn.ModuleDict:
        return nn.ModuleDict(
            {"text": TextTower(TextTowerConfig(n_pieces=len(pieces))), "audio": AudioTower(AudioTowerConfig())}
        )

    def placed(_name: str, value: Tensor) -> Tensor:
        return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)

    model = filled(file, towers, state, placed, "clap-mini", "Leave out the file to use the embedded ones.")
    text, audio = model["text"], model["audio"]
    assert isinstance(text, TextTower) and isinstance(audio, AudioTower)
    return MiniEncoder(tokens, text, audio, torch.device(device))


def load(*, weights: Path | None, device: torch.device) -> QueryEncoder:
    """Load clap-mini on the device."""
    return load_mini(weights, device)


def _pieces(vocabulary: Path) -> list[str]:
    try:
        return vocabulary.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{vocabulary} is no vocabulary, a piece of a word on each line: {error}.") from error
