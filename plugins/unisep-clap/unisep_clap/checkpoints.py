"""Where a CLAP checkpoint lies, and the name of the space that its weights span."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from unisep.errors import DownloadError, WeightsError
from unisep.weights.hashes import known_sha256

DEFAULT_NAME = "laion/clap-htsat-unfused"
DEFAULT_REVISION = "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a"
DEFAULT_SHA256 = "1cd3c601bc4afe0fa87be3de4c13dd2cfadd249fac1e29acf74a9b296c3219bb"
DEFAULT_SPACE = f"{DEFAULT_NAME}@{DEFAULT_REVISION}"
# Safetensors first. Some LAION repositories hold only the second, which torch's restricted loader reads:
# it builds tensors and plain containers, and refuses a file that names anything else.
WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
_NEEDED = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
_OTHERWISE = ", give a folder that holds the checkpoint, or use the encoder 'clap-mini', which works offline."
_WANTED = ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json")


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a CLAP, its file of weights, and the name of its space."""

    folder: Path
    weights: Path
    space: str


def find(asked: Path | None) -> Checkpoint:
    """Return the checkpoint of a folder, of a hub name `owner/name[@revision]`, or (None) the default one.

    Raises WeightsError for something that is neither, DownloadError where the hub cannot help.
    """
    if asked is None:
        return _from_hub(DEFAULT_NAME, DEFAULT_REVISION)
    if asked.is_dir():
        return _from_folder(asked)
    named = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?", asked.as_posix())
    if named is None or asked.exists():
        raise WeightsError(
            f"{asked} is no folder with a CLAP checkpoint. Give a folder with config.json and model.safetensors, "
            f"or a name on the hub such as {DEFAULT_NAME}."
        )
    name = named[1]
    return _from_hub(name, named[2] or (DEFAULT_REVISION if name == DEFAULT_NAME else "main"))


def check_reachable(name: str, revision: str) -> None:
    """Raise DownloadError where the hub is needed and nobody answers: hf_hub_download would try for half a minute."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    is_here = isinstance(try_to_load_from_cache(name, _NEEDED[0], revision=revision), str)
    if is_here or constants.HF_HUB_OFFLINE:
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, _NEEDED[0], revision=revision))
    except HfHubHTTPError:  # it answers; what is wrong is told when the file is fetched
        return
    except Exception as error:  # of whatever library the hub's package uses for the network
        what_to_do = f"Connect: {constants.ENDPOINT} does not answer; or{_OTHERWISE.removeprefix(',')}"
        raise DownloadError(f"{_cannot(name, revision, error)} {what_to_do}") from error


def _cannot(name: str, revision: str, error: Exception) -> str:
    return f"Cannot fetch {name} at revision {revision} ({type(error).__name__}: {error})."


def _from_folder(folder: Path) -> Checkpoint:
    weights = next((folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()), None)
    if weights is None:
        raise WeightsError(
            f"{folder} holds none of {', '.join(WEIGHTS_NAMES)}. Save the model there with save_pretrained."
        )
    digest = known_sha256(weights)
    space = DEFAULT_SPACE if digest == DEFAULT_SHA256 else f"{folder.resolve().name}@{digest}"
    return Checkpoint(folder, weights, space)


def _from_hub(name: str, revision: str) -> Checkpoint:
    """Fetch into the hub's cache (HF_HOME) unless it is there already; HF_HUB_OFFLINE is honoured."""
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise DownloadError(
            "Fetching a CLAP needs the package huggingface_hub. Install it with: pip install 'unisep-clap[transformers]'."
        ) from error

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(name, file, revision=revision))

    def fetch_if_there(file: str) -> Path | None:
        try:
            return fetch(file)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None

    check_reachable(name, revision)
    try:
        needed = [fetch(file) for file in _NEEDED]
        for file in _WANTED:
            fetch_if_there(file)
        weights = fetch_if_there(WEIGHTS_NAMES[0]) or fetch(WEIGHTS_NAMES[1])
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        what_to_do = "Unset HF_HUB_OFFLINE and connect" if constants.HF_HUB_OFFLINE else "Check the name and connect"
        raise DownloadError(f"{_cannot(name, revision, error)} {what_to_do}{_OTHERWISE}") from error
    if f"{name}@{revision}" == DEFAULT_SPACE and known_sha256(weights) != DEFAULT_SHA256:
        raise WeightsError(
            f"{weights} is not the published file of {name}: its sha256 differs. Delete it and try again."
        )
    # The cache keeps a revision in a folder of its commit's name, whatever branch was asked for.
    folder = needed[0].parent
    return Checkpoint(folder, weights, f"{name}@{folder.name}")
