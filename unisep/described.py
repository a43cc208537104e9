"""A checkpoint in two files, as training programs publish them: parameters, and beside them a YAML that describes the model."""

from __future__ import annotations

from pathlib import Path

from unisep.errors import WeightsError

_DESCRIPTIONS = frozenset({".yaml", ".yml"})
_PARAMETERS = frozenset({".ckpt", ".chpt", ".pth", ".pt", ".th", ".bin", ".safetensors"})


def find_described(place: Path) -> tuple[Path, Path]:
    """The YAML file and the parameters' file that `place`, a folder or either of them, means.

    Raises WeightsError if one is missing, or several could be meant.
    """
    if place.is_dir():
        return _only(place, _DESCRIPTIONS, "description (.yaml)"), _only(
            place, _PARAMETERS, "checkpoint (.ckpt)"
        )
    if not place.is_file():
        raise WeightsError(f"{place} does not exist. Give the folder that holds the .yaml and the .ckpt.")
    if place.suffix.lower() in _DESCRIPTIONS:
        return place, _partner(place, _PARAMETERS, "checkpoint (.ckpt)")
    if place.suffix.lower() in _PARAMETERS:
        return _partner(place, _DESCRIPTIONS, "description (.yaml)"), place
    raise WeightsError(
        f"{place.name} is neither a description (.yaml) nor a checkpoint ({', '.join(sorted(_PARAMETERS))})."
    )


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    )


def _only(folder: Path, suffixes: frozenset[str], what: str) -> Path:
    found = _files(folder, suffixes)
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5])
        raise WeightsError(
            f"{folder} holds {len(found)} files that could be the {what}{': ' + names if names else ''}. "
            "Keep one .yaml and one .ckpt a folder, or give the path of the checkpoint with a .yaml of its name beside it."
        )
    return found[0]


def _partner(path: Path, suffixes: frozenset[str], what: str) -> Path:
    """The file that belongs to `path`: of the same name, or the only one of its kind beside it.

    `config_NAME`, `NAME_config` and `NAME.ckpt.yaml`, as programs of many models name them, are the same name as NAME.
    """
    same = [other for other in _files(path.parent, suffixes) if _bare_names(other) & _bare_names(path)]
    return same[0] if len(same) == 1 else _only(path.parent, suffixes, what)


def _bare_names(path: Path) -> frozenset[str]:
    """What the file may be called without its suffixes and the word config."""
    stem = path.stem
    inner = Path(stem)
    names = {stem, stem.removeprefix("config_"), stem.removesuffix("_config")}
    return frozenset(names | ({inner.stem} if inner.suffix.lower() in _PARAMETERS else set()))
