"""What one server is told when it starts."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from unisep.errors import OptionError

MIN_TOKEN_LETTERS = 16
IN_TAB_FILES = (
    "client.js", "worker.js", "separate.js", "wordpiece.js", "film.onnx", "text.onnx", "vocab.txt",
    "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The options of a server. Raises OptionError for those that are out of range, or unsafe together.

    Attributes:
        data: folder of the queue, the recordings and the results.
        tokens: one for each user; without any, whoever reaches the loopback address is the one user.
        hosts: names that the `Host` header may hold, beside localhost and addresses.
        origins: of pages elsewhere that may call the API ("https://example.org").
        in_tab: folder that examples/browser builds, for pages that separate by themselves; None for none.
        max_upload_bytes, max_seconds: of one recording.
        quota_bytes: of recordings and results together; the least recently used go first.
        keep_seconds: how long they stay without being used.
        max_waiting: jobs that wait, of one user.
        plugins: files and folders given with `--plugin`.
        ray: address of the Ray cluster whose actors separate; None for processes on this machine.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8765
    tokens: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    has_page: bool = False
    in_tab: Path | None = None
    n_workers: int = 1
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    offline: bool = False
    plugins: tuple[str, ...] = ()
    ray: str | None = None
    max_upload_bytes: int = 2 * 2**30
    max_seconds: float = 2 * 3600.0
    quota_bytes: int = 20 * 2**30
    keep_seconds: float = 7 * 86_400.0
    max_waiting: int = 1000

    def __post_init__(self) -> None:
        if not self.is_loopback and not self.tokens:
            raise OptionError(f"--host {self.host} is open to other machines, and needs a --token.")
        if any(len(token) < MIN_TOKEN_LETTERS or not token.isascii() for token in self.tokens):
            raise OptionError(f"A --token has at least {MIN_TOKEN_LETTERS} letters, all of them ASCII.")
        if not 0 <= self.port < 2**16:
            raise OptionError(f"--port {self.port}: give 0 (any that is free) to 65535.")
        if self.n_workers < 1:
            raise OptionError(f"--workers {self.n_workers}: give 1 or more.")
        if min(self.max_upload_bytes, self.max_seconds, self.quota_bytes, self.keep_seconds) <= 0:
            raise OptionError("--max-upload, --max-minutes, --disk and --keep are above 0.")
        folder = self.in_tab
        if folder and (missing := [name for name in IN_TAB_FILES if not (folder / name).is_file()]):
            built = "Build it in examples/browser of unisep: npm install --ignore-scripts && npm run build"
            raise OptionError(f"--in-tab {folder} has no {', '.join(missing)}. {built}")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def owner_of(self, token: str) -> str:
        """Return the name under which what belongs to a token is kept."""
        return sha256(token.encode()).hexdigest()[:16]


def default_data() -> Path:
    """Return the folder for data of programs, as the XDG base directory specification names it."""
    home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".local" / "share") / "unisep" / "studio"
