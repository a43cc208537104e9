"""Read checkpoints without running what they name: safetensors, torch files, YAML descriptions.

Whatever is missing, damaged, of another kind or ambiguous is a WeightsError.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unisep.errors import WeightsError

_LARGEST_DESCRIPTION_BYTES = 1 << 20
_DESCRIPTION = ("description (.yaml)", frozenset({".yaml", ".yml"}))
_CHECKPOINT = ("checkpoint (.ckpt)", frozenset({".ckpt", ".chpt", ".pth", ".pt", ".th", ".bin", ".safetensors"}))
_INNER = ("state", "state_dict", "model_state_dict", "model")  # where training programs keep the parameters
_PREFIXES = ("module.", "_orig_mod.", "model.")  # what they put before every name
_COUNTER = "n_averaged"  # beside the parameters of a running average
_MULTIARRAY = [f"numpy.{core}.multiarray.{kind}" for core in ("core", "_core") for kind in ("scalar", "_reconstruct")]
_NUMPY_NAMES = ("numpy.dtype", "numpy.ndarray", *_MULTIARRAY)

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, and tuples, which these files tag `!!python/tuple`.

    All other `!!python/...` tags stay unknown, so a file naming a function or class is refused. So are references,
    which none of these files needs: a few lines of them can stand for gigabytes.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "references are not read here", mark)
        return super().compose_node(parent, index)


_PlainLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file, of plain values and tuples only. Raises WeightsError for anything else."""
    try:
        if path.stat().st_size > _LARGEST_DESCRIPTION_BYTES:
            raise WeightsError(f"{path} is larger than any description of a model. Do not use it.")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{path} cannot be read as a model's description ({reason}); nothing was run. "
            "Use the file from the checkpoint's publisher."
        ) from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} describes no model: it holds no sections by name.")
    return values


def find_described(place: Path) -> tuple[Path, Path]:
    """Return the YAML file and the parameters' file that `place`, a folder or either of them, means."""
    if place.is_dir():
        return _only(place, _DESCRIPTION), _only(place, _CHECKPOINT)
    if not place.is_file():
        raise WeightsError(f"{place} does not exist. Give the folder that holds the .yaml and the .ckpt.")
    if place.suffix.lower() in _DESCRIPTION[1]:
        return place, _only(place.parent, _CHECKPOINT, place)
    if place.suffix.lower() in _CHECKPOINT[1]:
        return _only(place.parent, _DESCRIPTION, place), place
    raise WeightsError(
        f"{place.name} is neither a description (.yaml) nor a checkpoint ({', '.join(sorted(_CHECKPOINT[1]))})."
    )


def _only(folder: Path, kind: tuple[str, frozenset[str]], partner: Path | None = None) -> Path:
    """Return the one file of a kind in `folder` that has the name of `partner`, or is the only one."""
    label, suffixes = kind
    files = [path for path in sorted(folder.glob("[!.]*")) if path.suffix.lower() in suffixes and path.is_file()]
    namesakes = [path for path in files if partner is not None and _bare_names(path) & _bare_names(partner)]
    if len(namesakes) == 1:
        return namesakes[0]
    if len(files) != 1:
        names = ", ".join(path.name for path in files[:5])
        raise WeightsError(
            f"{folder} holds {len(files)} files that could be the {label}{': ' + names if names else ''}. "
            "Keep one .yaml and one .ckpt a folder, or give the path of the checkpoint with a .yaml of its name beside it."
        )
    return files[0]


def _bare_names(path: Path) -> set[str]:
    """Return the model's names that a file can stand for: NAME, config_NAME, NAME_config and NAME.ckpt.yaml for NAME."""
    inner = Path(path.stem)
    names = {path.stem, path.stem.removeprefix("config_"), path.stem.removesuffix("_config")}
    return names | ({inner.stem} if inner.suffix.lower() in _CHECKPOINT[1] else set())


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file by name, on the CPU and mapped from the disk, and its metadata."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}): it is missing, cut short or damaged. Fetch it again."
        ) from error


def read_torch_file(path: Path, *, mapped: bool = False) -> Any:
    """Read a file with torch's restricted loader: tensors, plain values and containers, on the CPU.

    Arrays of NumPy in a dictionary become tensors; its numbers, such as a training program's scores, become nothing.
    `mapped` leaves numbers on the disk until they are used, for a file that holds much else, such as an optimiser's state;
    damage to them is then not noticed. Raises WeightsError for a file that is missing, damaged or holds anything else.
    """
    try:
        with _numpy_as_plain_values(), path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
        for name, value in content.items() if isinstance(content, dict) else ():
            content[name] = value.tensor() if isinstance(value, _NumPyValue) and value.state else value
        overstated = any(value.nbytes > value.untyped_storage().nbytes() for value in _tensors(content))
    except pickle.UnpicklingError as error:
        # Only the name: torch's own words tell people to trust the file.
        named = re.search(r"GLOBAL ([\w.]{1,200})", str(error))
        raise WeightsError(
            f"{path} is damaged, or names more than tensors and plain values{f' ({named[1]})' if named else ''}; "
            "nothing of it was run. Use the file that the model's authors publish."
        ) from error
    except Exception as error:  # whatever a damaged file provokes, the caller sees one kind of error
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"
        raise WeightsError(f"{path} is damaged or no torch checkpoint ({reason}). Fetch it again.") from error
    if overstated:
        raise WeightsError(f"{path} claims more numbers than the file has. Do not use it.")
    return content


def only_tensors(path: Path, content: object) -> dict[str, Tensor]:
    """Return what was read from `path` as tensors by name. Raises WeightsError if it is anything else, or nothing."""
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no parameters by name.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: {str(name)[:80]!r} is not the name of a tensor.")
    return dict(content)


def read_parameters(path: Path) -> dict[str, Tensor]:
    """Read the parameters in a file of torch or safetensors, taken out of what training programs wrap them in."""
    content: Any = read_safetensors(path)[0] if path.suffix.lower() == ".safetensors" else read_torch_file(path)
    for name in _INNER:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    state = only_tensors(path, content)
    for prefix in _PREFIXES:
        named = {name: value for name, value in state.items() if name != _COUNTER}
        if all(name.startswith(prefix) for name in named):
            state = {name.removeprefix(prefix): value for name, value in named.items()}
    return state


def check_parameters(
    path: Path,
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    described_by: str = "its own options",
    advice: str = "It is damaged or for another version.",
) -> None:
    """Raise WeightsError unless the parameters `state` of a file are those `wanted` by a model, on "meta" perhaps.

    It counts and names what is missing, unknown, of another shape, or whole numbers instead of real ones.

    >>> import torch
    >>> check_parameters(Path("model.pt"), {"a": torch.ones(2)}, {"a": torch.ones(3), "b": torch.ones(1)})
    Traceback (most recent call last):
    unisep.errors.WeightsError: model.pt does not fit its own options: 1 parameters missing (b), 1 of another shape (a ...
    """
    both = sorted(state.keys() & wanted.keys())
    differences = {
        "parameters missing": sorted(wanted.keys() - state.keys()),
        "unknown": sorted(state.keys() - wanted.keys()),
        "of another shape": [
            f"{name:.80} has shape {tuple(state[name].shape)}, not {tuple(wanted[name].shape)}"
            for name in both
            if state[name].shape != wanted[name].shape
        ],
        "of another kind of number": [
            name for name in both if state[name].is_floating_point() != wanted[name].is_floating_point()
        ],
    }
    counts = [
        f"{len(names)} {what} ({', '.join(name[:200] for name in names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in differences.items()
        if names
    ]
    if counts:
        raise WeightsError(f"{path} does not fit {described_by}: {', '.join(counts)}. {advice}")


def check_finite(path: Path, parameters: Mapping[str, Tensor]) -> None:
    """Raise WeightsError for NaN or infinity. Give parameters as they will be used: float16 holds less than float32."""
    for name, value in parameters.items():
        if not bool(value.isfinite().all()):
            raise WeightsError(
                f"{path}: {name:.200} holds numbers that are not finite in {value.dtype}. Fetch it again."
            )


def filled(
    path: Path,
    make: Callable[[], ModuleT],
    state: Mapping[str, Tensor],
    placed: Callable[[str, Tensor], Tensor],
    described_by: str = "its own options",
    advice: str = "It is damaged or for another version.",
) -> ModuleT:
    """Make a model and fill it with the parameters of a file, in evaluation mode.

    `make` is called with "meta" as torch's device, so that it costs neither memory nor random numbers; a buffer that is
    in no file is to be made on the CPU. `placed` turns a name and its parameter into what the model gets, on its device
    and in its number type. Raises WeightsError as `check_parameters` and `check_finite` do.
    """
    with torch.device("meta"):
        model = make()
    check_parameters(path, state, model.state_dict(), described_by, advice)
    parameters = {name: placed(name, value).contiguous() for name, value in state.items()}
    check_finite(path, parameters)
    nn.Module.load_state_dict(model, parameters, strict=True, assign=True)
    return model.eval()


class _NumPyValue:
    """Stands for a number, an array or a kind of number of NumPy: keeps the plain values it is made of."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor:
        """Return the array as a tensor. Raises an error of Python's own for one of anything but numbers."""
        _, shape, number, is_fortran, data = self.state
        flat = np.frombuffer(data, f"{number.state[1]}{number.parts[0]}")
        return torch.from_numpy(flat.reshape(shape, order="F" if is_fortran else "C").copy())


def _numpy_as_plain_values() -> AbstractContextManager[object]:
    """Have torch's restricted loader read what NumPy made as `_NumPyValue` in a block, where torch is 2.6 or later."""
    try:
        from torch.serialization import safe_globals

        return safe_globals([(_NumPyValue, name) for name in _NUMPY_NAMES])
    except (ImportError, TypeError):
        return nullcontext()


def _tensors(content: object) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping | list | tuple):
        for value in content.values() if isinstance(content, Mapping) else content:
            yield from _tensors(value)
