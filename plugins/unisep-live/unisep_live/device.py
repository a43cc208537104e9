"""From an input device to an output device, through PortAudio."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from unisep import Live
from unisep.errors import OptionError
from unisep_live.mixer import Mixer


def sounddevice() -> Any:
    """Return the module. Raise OptionError where it, or PortAudio, is not there."""
    try:
        import sounddevice
    except ImportError as error:
        raise OptionError('Devices need sounddevice. Run: pip install "unisep-live[device]", or use --raw.') from error
    except OSError as error:
        raise OptionError(
            f"Devices need the library PortAudio ({error}). On Debian and Ubuntu: apt install libportaudio2; on macOS: "
            "brew install portaudio. Or use --raw."
        ) from error
    return sounddevice


def devices() -> list[dict[str, Any]]:
    """Return name, number, channels and usual rate of every device."""
    library = sounddevice()
    defaults = list(library.default.device)
    return [
        {
            "number": number,
            "name": device["name"],
            "inputs": device["max_input_channels"],
            "outputs": device["max_output_channels"],
            "sample_rate_hz": round(device["default_samplerate"]),
            "is_default": number in defaults,
        }
        for number, device in enumerate(library.query_devices())
    ]


def default_rate_hz(source: int | str | None) -> int:
    """Return the usual rate of an input device."""
    library = sounddevice()
    try:
        return round(library.query_devices(source, "input")["default_samplerate"])
    except (ValueError, library.PortAudioError) as error:
        raise OptionError(
            f"There is no input device {source or 'at all'} ({error}). See: unisep live --list-devices"
        ) from error


def run(
    live: Live, mixer: Mixer, source: int | str | None, sink: int | str | None, rate_hz: int, shape: tuple[int, int],
    is_going_on: Callable[[], bool],
) -> None:  # fmt: skip
    """Separate from device to device as long as `is_going_on`, which is asked again and again, and may wait.

    Raises:
        OptionError: a device that is not there, or cannot do this rate or so many channels.
    """
    library = sounddevice()
    failures: list[Exception] = []
    ended = threading.Event()

    def play(heard: Any, played: Any, n_frames: int, times: Any, status: Any) -> None:
        try:
            played[:] = mixer.mix(live.push(heard.T)).T
        except Exception as error:
            failures.append(error)
            ended.set()
            raise library.CallbackAbort from error

    n_channels, n_block = shape
    try:
        stream = library.Stream(
            samplerate=rate_hz, blocksize=n_block, device=(source, sink), channels=n_channels, dtype="float32",
            latency="low", callback=play,
        )  # fmt: skip
    except (ValueError, library.PortAudioError) as error:
        raise OptionError(f"The devices cannot be opened: {error}. See: unisep live --list-devices") from error
    with stream:
        while not ended.is_set() and is_going_on():
            pass
    if failures:
        raise failures[0]
