"""Read a `.th` checkpoint without running anything that the file names.

Both of torch's formats are pickles beside raw numbers. Every opcode and every name in a pickle is looked at before the
pickle is loaded; then it can only build plain values, `Fraction`, `OrderedDict` and tensors whose numbers lie in the
file. The model's class becomes a marker that cannot be called, and numbers of NumPy, the scores that demucs's released
files keep, become nothing.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from unisep.errors import WeightsError

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# What a number of NumPy is made of.
_SCORES = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar", "numpy dtype", "_codecs encode"}
_NAMES = (
    {
        "fractions Fraction",
        "collections OrderedDict",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
    }
    | _SCORES
    | {f"torch {name}" for name in _DTYPES}
)
_OPCODES = frozenset(
    {
        "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
        "BINFLOAT", "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND",
        "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
        "GLOBAL", "REDUCE", "BUILD", "BINPERSID",
    }
)  # fmt: skip
_LARGEST_PICKLE_BYTES = 1 << 25
_LARGEST_MEMO = 1 << 20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


class Marker:
    """Stands for the class a checkpoint was made with; it cannot be called or changed."""

    __slots__ = ()


class _Score:
    """Stands for a number of NumPy and for all that it is made of; takes and keeps nothing."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


HTDEMUCS = Marker()
_ONLY_HTDEMUCS: Mapping[str, Marker] = {"demucs.htdemucs HTDemucs": HTDEMUCS}
Classes = Mapping[str, Marker]


def read_torch_file(path: Path, classes: Classes = _ONLY_HTDEMUCS) -> Any:
    """Read the object stored in a `.th` file, with a marker in the place of the model's class.

    `classes` maps each "module name" that may stand there to its marker.

    Raises:
        WeightsError: The file is damaged, or names anything else than these and the names above.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_zip(file, classes) if is_zip else _read_legacy(file, classes)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except Exception as error:  # whatever a hostile file provokes, the caller sees one kind of error
        raise WeightsError(
            f"{path} is damaged or no torch checkpoint ({type(error).__name__}: {error}). Fetch it again."
        ) from error


def _read_zip(file: BinaryIO, classes: Classes) -> Any:
    """Read torch's format since 1.6: a zip of one pickle and a member for each storage."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise WeightsError("it holds compressed parts, which torch never writes. Do not use it.")
        if len(members) != len(archive.infolist()) or sum(m.file_size for m in members.values()) > size:
            raise WeightsError("its parts claim more bytes than the file has. Do not use it.")
        root = _root(members)
        if f"{root}/byteorder" in members and archive.read(f"{root}/byteorder") != b"little":
            raise WeightsError("it was written on a big-endian machine; convert it there to little-endian.")

        def storage(key: str, dtype: torch.dtype, n: int) -> Tensor:
            data = archive.read(f"{root}/data/{key}")
            if len(data) != n * dtype.itemsize:
                raise WeightsError(f"storage {key} has {len(data)} bytes, not {n} numbers of {dtype}.")
            return torch.frombuffer(bytearray(data), dtype=dtype) if n else torch.empty(0, dtype=dtype)

        pickled = archive.read(f"{root}/data.pkl")
        return _Unpickler(_checked(io.BytesIO(pickled), classes), storage, classes).load()


def _root(members: dict[str, zipfile.ZipInfo]) -> str:
    """Return the folder inside the zip that everything lies in."""
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise WeightsError("it is a zip file, but not one of torch's checkpoints.")
    return roots[0]


def _read_legacy(file: BinaryIO, classes: Classes) -> Any:
    """Read torch's format before 1.6: five pickles, then the numbers of every storage."""
    left = file.seek(0, io.SEEK_END)
    file.seek(0)
    storages: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, n: int) -> Tensor:
        nonlocal left
        left -= n * dtype.itemsize
        if left < 0:
            raise WeightsError("its storages claim more bytes than the file has. Do not use it.")
        storages[key] = torch.zeros(n, dtype=dtype)
        return storages[key]

    if _plain(file) != _LEGACY_MAGIC or _plain(file) != _LEGACY_PROTOCOL:
        raise WeightsError("it is no torch checkpoint.")
    if not _plain(file).get("little_endian"):
        raise WeightsError("it was written on a big-endian machine; convert it there to little-endian.")
    stored = _Unpickler(_checked(file, classes), storage, classes).load()
    keys = _plain(file)
    if sorted(keys) != sorted(storages):
        raise WeightsError("it lacks the numbers of some tensors.")
    for key in keys:
        _fill(storages[key], file, key)
    return stored


def _fill(tensor: Tensor, file: BinaryIO, key: str) -> None:
    """Read the numbers of one storage from where a legacy file stands into `tensor`."""
    (n,) = struct.unpack("<q", file.read(8))
    data = file.read(tensor.nbytes)
    if n != tensor.numel() or len(data) != tensor.nbytes:
        raise WeightsError(f"storage {key} is cut short or has {n} numbers where {tensor.numel()} were announced.")
    if n:
        tensor.copy_(torch.frombuffer(bytearray(data), dtype=tensor.dtype))


def _plain(file: BinaryIO) -> Any:
    """Read the next pickle of a legacy file, which may hold plain values only."""

    def refuse(key: str, dtype: torch.dtype, n: int) -> Tensor:
        raise WeightsError("it has tensors where none belong.")

    return _Unpickler(_checked(file, {}), refuse, {}).load()


def _checked(file: BinaryIO, classes: Classes) -> io.BytesIO:
    """Return the next pickle in `file`, every opcode of it found harmless; `file` stands behind it afterwards."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and argument not in _NAMES and argument not in classes:
            raise WeightsError(
                f"it names {str(argument).replace(' ', '.')!r}, which no checkpoint of its kind needs; nothing "
                "was run. Use a file from the model's publisher."
            )
        if opcode.name not in _OPCODES:
            raise WeightsError(f"it uses the pickle instruction {opcode.name}, which torch never writes.")
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > _LARGEST_MEMO:
            raise WeightsError("its pickle claims an absurd number of objects. Do not use it.")
    end = file.tell()
    if end - start > _LARGEST_PICKLE_BYTES:
        raise WeightsError("its description is larger than any model's. Do not use it.")
    file.seek(start)
    return io.BytesIO(file.read(end - start))


class _Unpickler(pickle.Unpickler):
    """Loader of a checked pickle; `storage(key, dtype, n)` gives the numbers behind a tensor."""

    def __init__(self, file: io.BytesIO, storage: Callable[[str, torch.dtype, int], Tensor], classes: Classes) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage
        self._classes = classes
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name in the file: never that thing itself, but for OrderedDict."""
        full = f"{module} {name}"
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if full in self._classes:
            return self._classes[full]
        # Made anew each time, so that a file cannot leave anything behind on them.
        known: dict[str, Any] = {
            "collections OrderedDict": OrderedDict,
            "fractions Fraction": lambda *parts: _fraction(*parts),
            "torch._utils _rebuild_tensor": lambda *parts: _view(*parts[:4]),
            "torch._utils _rebuild_tensor_v2": lambda *parts: _view(*parts[:4]),
            "torch._utils _rebuild_parameter": lambda data, *_: data,
            **dict.fromkeys(_SCORES, lambda *_: _Score()),
        }
        if full not in known:
            raise WeightsError(f"it names {module}.{name}, which no checkpoint of its kind needs.")
        return known[full]

    def persistent_load(self, pid: Any) -> Tensor | Marker:
        """Return the storage that a tensor refers to, as a flat tensor; or the marker of the model's class.

        The legacy format stores a module's class beside its source text; that text is not looked at.
        """
        if pid[0] == "module" and any(pid[1] is marker for marker in self._classes.values()):
            return pid[1]  # type: ignore[no-any-return]
        kind, dtype, key, _, n, *view = pid
        is_plain = kind == "storage" and isinstance(dtype, torch.dtype) and isinstance(key, str)
        if not is_plain or type(n) is not int or n < 0 or any(part is not None for part in view):
            raise WeightsError("it refers to storages in a way torch does not.")
        if key not in self._storages:
            self._storages[key] = self._storage(key, dtype, n)
        flat = self._storages[key]
        if flat.dtype != dtype or flat.numel() != n:
            raise WeightsError(f"it gives two descriptions of storage {key}.")
        return flat


def _view(flat: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """Return a tensor over numbers of `flat`, all of which exist."""
    numbers = (offset, *size, *stride)
    if not isinstance(flat, Tensor) or len(size) != len(stride) or any(type(n) is not int or n < 0 for n in numbers):
        raise WeightsError("it describes a tensor in a way torch does not.")
    n_elements = 1
    for length in size:
        n_elements *= length
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if n_elements > flat.numel() or (n_elements and last >= flat.numel()):
        raise WeightsError(f"a tensor of shape {tuple(size)} reaches outside its storage.")
    return flat.as_strided(size, stride, offset)


def _fraction(*parts: Any) -> Fraction:
    """Return a fraction from two whole numbers, or from text like "39/5" as older Pythons stored it."""
    if len(parts) == 1 and isinstance(parts[0], str):
        match = re.fullmatch(r"(-?\d{1,15})(?:/(\d{1,15}))?", parts[0], flags=re.ASCII)
        if match:
            return Fraction(int(match[1]), int(match[2] or 1))
    elif len(parts) == 2 and all(type(part) is int for part in parts):
        return Fraction(*parts)
    raise WeightsError(f"it holds a fraction that is none: {parts!r:.80}")
