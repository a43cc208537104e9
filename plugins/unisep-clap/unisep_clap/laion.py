"""`clap`: any LAION CLAP through transformers' ClapModel, from a folder or by its name on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unisep import Audio, QueryEncoder
from unisep.errors import EncoderError, QueryError, WeightsError
from unisep_clap.checkpoints import Checkpoint, find
from unisep_clap.windows import loud_windows

if TYPE_CHECKING:
    from transformers import ClapFeatureExtractor, ClapModel, PreTrainedTokenizerBase

# What the LAION checkpoints were trained with; longer texts are cut.
N_TOKENS_MAX = 77


@final
class ClapEncoder(QueryEncoder):
    """A LAION CLAP, ready to encode.

    Source: Wu et al. 2023, Large-scale contrastive language-audio pretraining (arXiv:2211.06687).
    """

    def __init__(
        self,
        model: ClapModel,
        extractor: ClapFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        space: str,
        device: torch.device,
    ) -> None:
        self.space = space
        untyped: Any = model
        self._model = untyped.to(device).eval()
        self._extractor: Any = extractor
        self._tokenizer: Any = tokenizer
        self._device = device

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self._model.config.projection_dim)

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Return unit vectors `[n, dim]`, one text at a time, so that company changes nothing.

        Raises QueryError for a text without a letter or digit.
        """
        rows = [self._encode_phrase(text) for text in texts]
        return torch.cat(rows) if rows else torch.empty(0, self.dim, device=self._device)

    @torch.inference_mode()
    def encode_audio(self, clips: Sequence[Audio]) -> Tensor:
        """Return unit vectors `[n, dim]`: windows of ten seconds, averaged where the clip sounds."""
        rows = [self._encode_clip(clip) for clip in clips]
        return torch.stack(rows) if rows else torch.empty(0, self.dim, device=self._device)

    def _encode_phrase(self, text: str) -> Tensor:
        if not any(character.isalnum() for character in text):
            raise QueryError(f"The text {text!r} names no sound. Write what to listen for, such as 'piano'.")
        tokens = self._tokenizer(text, truncation=True, max_length=N_TOKENS_MAX, return_tensors="pt")
        inputs = {name: tokens[name].to(self._device) for name in ("input_ids", "attention_mask")}
        return self._unit(self._model.get_text_features(**inputs))

    def _encode_clip(self, clip: Audio) -> Tensor:
        rate_hz = self._extractor.sampling_rate
        mono = np.ascontiguousarray(soxr.resample(clip.samples.mean(0), clip.sample_rate_hz, rate_hz), np.float32)
        n_window = int(self._extractor.nb_max_samples)
        # The extractor repeats a short clip, as in training, so it must see it without zeros.
        mono = mono if len(mono) else np.zeros(1, np.float32)
        windows = loud_windows(mono, n_window) if len(mono) > n_window else [mono]
        return F.normalize(torch.cat([self._encode_window(window) for window in windows]).mean(0), dim=-1)

    def _encode_window(self, window: NDArray[np.float32]) -> Tensor:
        # A fusion extractor draws from NumPy's global generator; nobody else is to notice.
        state = np.random.get_state()
        try:
            features = self._extractor(window, sampling_rate=self._extractor.sampling_rate, return_tensors="pt")
        finally:
            np.random.set_state(state)
        # No window is longer than the model's own, so the fusion of longer clips stays off.
        longer = torch.zeros(1, 1, dtype=torch.bool, device=self._device)
        mel = features["input_features"].to(self._device, torch.float32)
        return self._unit(self._model.get_audio_features(input_features=mel, is_longer=longer))

    def _unit(self, features: Any) -> Tensor:
        """Return unit rows; transformers returned a bare tensor before version 5 and a structure since."""
        vectors = features if isinstance(features, Tensor) else features.pooler_output
        if not torch.isfinite(vectors).all():
            raise EncoderError(f"The encoder of {self.space} gave values that are not finite: its weights are damaged.")
        return F.normalize(vectors.float(), dim=-1)


def load(*, weights: Path | None, device: torch.device) -> QueryEncoder:
    """Load the CLAP of a folder, of a hub name `owner/name[@revision]`, or the default.

    Raises WeightsError where the checkpoint is missing or does not fit, DownloadError where it cannot be
    fetched, EncoderError without transformers.
    """
    try:
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel
    except ImportError as error:
        raise EncoderError(
            "The encoder 'clap' needs the package transformers, which is not installed. "
            "Install it with: pip install 'unisep-clap[transformers]', or use the encoder 'clap-mini'."
        ) from error
    checkpoint = find(weights)
    try:
        extractor = ClapFeatureExtractor.from_pretrained(checkpoint.folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
        model = _model(ClapModel, checkpoint)
    except Exception as error:
        raise WeightsError(
            f"{checkpoint.folder} does not hold a CLAP that transformers can read: {error}. It needs config.json, "
            "preprocessor_config.json, tokenizer.json and model.safetensors, as ClapModel.save_pretrained and "
            "ClapProcessor.save_pretrained write them."
        ) from error
    return ClapEncoder(model, extractor, tokenizer, checkpoint.space, torch.device(device))


def _model(kind: Any, checkpoint: Checkpoint) -> ClapModel:
    """Build the model with every weight filled from the file: one that is missing would be random."""
    model: ClapModel
    report: dict[str, Any]
    model, report = kind.from_pretrained(
        checkpoint.folder,
        use_safetensors=checkpoint.weights.suffix == ".safetensors",
        weights_only=True,
        local_files_only=True,
        output_loading_info=True,
    )
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(("position_ids", "token_type_ids")))
    if missing or report["mismatched_keys"]:
        raise WeightsError(f"weights are missing or of another shape: {missing[:3] or report['mismatched_keys']}")
    return model
