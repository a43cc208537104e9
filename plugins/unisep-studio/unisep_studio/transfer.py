"""Bytes on their way: uploads to the disk as they come, files by ranges, and zip archives as they are made."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from unisep_studio.security import Refusal

_CHUNK_BYTES = 2**18
logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else any malformed form is a line of the log
_MEDIA_TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".opus": "audio/ogg",
                ".m4a": "audio/mp4", ".mp4": "audio/mp4", ".aac": "audio/aac", ".webm": "audio/webm"}  # fmt: skip


class Upload:
    """The one file of a multipart body, written to `path` as it comes; `name` is what the sender calls it."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self._max_bytes = path, max_bytes
        self.name, self.sha256 = "", ""
        self._n_bytes, self._n_files = 0, 0
        self._is_file = False
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._disposition = b""
        self._digest = sha256()
        self._pieces: list[bytes] = []

    async def receive(self, request: Request) -> None:
        """Write the file. Raises Refusal for what is too large, and for what is no form with one file."""
        kind, parameters = parse_options_header(request.headers.get("content-type", ""))
        boundary = parameters.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 200:
            raise Refusal(415, "FormError", "Send the file as multipart/form-data, in a field named `file`.")
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > self._max_bytes + 2**16:
            raise self._too_large()
        parser = MultipartParser(boundary, self._callbacks())
        try:
            with self.path.open("wb") as file:
                async for chunk in request.stream():
                    parser.write(chunk)
                    self._write(file)
                parser.finalize()
        except FormParserError as error:
            raise Refusal(400, "FormError", f"The form cannot be read: {error}") from error
        except ClientDisconnect as error:
            raise Refusal(400, "FormError", "The upload was cut off.") from error
        except OSError as error:
            raise Refusal(507, "DiskSpaceError", f"The upload cannot be kept: {error.strerror}.") from error
        if self._n_files != 1 or not self._n_bytes:
            raise Refusal(400, "FormError", "The form needs one file that is not empty, in a field named `file`.")
        self.sha256 = self._digest.hexdigest()

    def _write(self, file: BinaryIO) -> None:
        for piece in self._pieces:
            self._n_bytes += len(piece)
            if self._n_bytes > self._max_bytes:
                raise self._too_large()
            self._digest.update(piece)
            file.write(piece)
        self._pieces.clear()

    def _too_large(self) -> Refusal:
        return Refusal(413, "TooLarge", f"A recording may have {self._max_bytes / 1e6:.0f} MB here.")

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin, "on_part_data": self._data, "on_headers_finished": self._headers_finished,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
        }  # fmt: skip

    def _begin(self) -> None:
        self._disposition, self._is_file = b"", False

    def _header_end(self) -> None:
        name, value = map(bytes, self._header)
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header[0].clear()
        self._header[1].clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" in options:
            self._is_file = True
            self._n_files += 1
            self.name = options[b"filename"].decode("utf-8", errors="replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._pieces.append(data[start:end])


def send_file(path: Path, request: Request, name: str) -> Response:
    """Answer with a file, or with the one range of it that was asked for. Raises Refusal."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise Refusal(404, "NotFound", "This file is not here any more.") from error
    n_bytes = os.fstat(file.fileno()).st_size
    tag = f'"{os.fstat(file.fileno()).st_mtime_ns:x}-{n_bytes:x}"'
    headers = {"Accept-Ranges": "bytes", "ETag": tag, "Content-Disposition": disposition(name)}
    if request.headers.get("if-none-match") == tag:
        file.close()
        return Response(status_code=304, headers=headers)
    asked = request.headers.get("range", "") if request.headers.get("if-range", tag) == tag else ""
    try:
        span = _range(asked, n_bytes)
    except Refusal:
        file.close()
        raise
    first, last = span or (0, n_bytes - 1)
    headers["Content-Length"] = str(last - first + 1)
    if span is not None:
        headers["Content-Range"] = f"bytes {first}-{last}/{n_bytes}"
    media_type = _MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    if request.method == "HEAD":
        file.close()
        return Response(headers=headers, media_type=media_type, status_code=200 if span is None else 206)
    body = _pieces(file, first, last + 1)
    return StreamingResponse(body, status_code=200 if span is None else 206, headers=headers, media_type=media_type)


def disposition(name: str) -> str:
    """Return the header that suggests a name for a download."""
    return f"inline; filename*=UTF-8''{quote(name, safe='')}"


def _range(asked: str, n_bytes: int) -> tuple[int, int] | None:
    """Return first and last byte of "bytes=0-99", "bytes=100-" or "bytes=-100"; None for all, as for what is no range."""
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", asked)
    if match is None or not (match[1] or match[2]):
        return None
    first = int(match[1]) if match[1] else max(0, n_bytes - int(match[2]))
    last = min(int(match[2]), n_bytes - 1) if match[1] and match[2] else n_bytes - 1
    if match[1] and match[2] and int(match[2]) < first:
        return None
    if first > last:
        raise Refusal(416, "RangeError", f"The file has {n_bytes} bytes.", {"Content-Range": f"bytes */{n_bytes}"})
    return first, last


def _pieces(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while start < stop and (piece := file.read(min(_CHUNK_BYTES, stop - start))):
            start += len(piece)
            yield piece


class _Outbox:
    """A file that cannot be searched: what zipfile writes is taken out piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def zip_pieces(paths: Mapping[str, Path]) -> Iterator[bytes]:
    """Yield a zip archive of files by their names in it, not compressed, as sound hardly is."""
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, path in paths.items():
            with path.open("rb") as source, archive.open(zipfile.ZipInfo.from_file(path, name), "w") as entry:
                while piece := source.read(_CHUNK_BYTES):
                    entry.write(piece)
                    yield outbox.take()
            yield outbox.take()
    yield outbox.take()
