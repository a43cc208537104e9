"""The commands `unisep serve` and `unisep studio`.

What takes long to import is imported after the arguments were read, so that help comes at once.
"""

from __future__ import annotations

import argparse
import os
import secrets
import webbrowser
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

from unisep.cli.arguments import Parser, common_options
from unisep.cli.console import Console
from unisep.errors import OptionError
from unisep_studio.settings import Settings, default_data

TOKEN_VARIABLE = "UNISEP_STUDIO_TOKEN"


def serve(words: list[str]) -> int:
    """Run `unisep serve` with these words after it."""
    return _run(
        _parser("serve", "Separate over HTTP, with a queue; the reference is at /docs.").parse_args(words), None
    )


def studio(words: list[str]) -> int:
    """Run `unisep studio` with these words after it."""
    parser = _parser("studio", "Separate in the browser, on this machine.")
    parser.add_argument("--no-open", action="store_true", help="do not open the browser")
    in_tab = "offer to separate short clips in the tab, without an upload, by what examples/browser builds in FOLDER"
    parser.add_argument("--in-tab", type=Path, metavar="FOLDER", help=in_tab)
    arguments = parser.parse_args(words)
    return _run(arguments, not arguments.no_open)


def settings_of(arguments: Namespace, *, has_page: bool) -> Settings:
    """Return the settings that the arguments ask for; a token is made where one is needed and none is given."""
    given = [*arguments.token, *filter(None, [os.environ.get(TOKEN_VARIABLE)])]
    values = {
        "data": arguments.data or default_data(), "host": arguments.host, "port": arguments.port, "has_page": has_page,
        "in_tab": arguments.in_tab, "hosts": tuple(arguments.allow_host), "origins": tuple(arguments.allow_origin),
        "n_workers": arguments.workers,
        "device": arguments.device, "precision": arguments.precision, "threads": arguments.threads,
        "offline": arguments.offline, "plugins": tuple(map(str, arguments.plugin)), "ray": arguments.ray,
        "max_upload_bytes": round(arguments.max_upload * 1e6), "max_seconds": arguments.max_minutes * 60,
        "quota_bytes": round(arguments.disk * 1e9), "keep_seconds": arguments.keep * 86_400,
    }  # fmt: skip
    is_local = arguments.host == "localhost" or arguments.host.startswith("127.") or arguments.host == "::1"
    tokens = tuple(given) if given or is_local else (secrets.token_urlsafe(24),)
    return Settings(**values, tokens=tokens)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"unisep {name}", parents=[common_options()], description=description)
    add = parser.add_argument_group("server").add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen at; others than this machine's own need a token (%(default)s)",
    )
    add("--port", type=int, default=8765, metavar="N", help="0 for any that is free (%(default)s)")
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="recordings, results and the queue (default: in the user's data folder)",
    )
    add(
        "--token",
        action="append",
        default=[],
        help=f"what a request must know; one for each user (also {TOKEN_VARIABLE})",
    )
    add("--allow-host", action="append", default=[], metavar="NAME", help="another name that this server goes by")
    add("--allow-origin", action="append", default=[], metavar="URL", help="a page elsewhere that may call the server")
    add = parser.add_argument_group("limits").add_argument
    add("--workers", type=int, default=1, metavar="N", help="processes that separate (%(default)s)")
    shared = "have a Ray cluster separate: auto or host:port; its machines share --data (needs unisep-ray)"
    add("--ray", metavar="ADDRESS", help=shared)
    add("--max-upload", type=float, default=2000, metavar="MB", help="of one recording (%(default)s)")
    add("--max-minutes", type=float, default=120, metavar="N", help="of one recording (%(default)s)")
    add(
        "--disk",
        type=float,
        default=20,
        metavar="GB",
        help="of all that is kept; the least used goes first (%(default)s)",
    )
    add("--keep", type=float, default=7, metavar="DAYS", help="that things stay without being used (%(default)s)")
    add = parser.add_argument_group("computing").add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    add("--precision", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    add("-j", "--threads", type=int, metavar="N", help="segments computed at once on the CPU (default: one a core)")
    add("--offline", action="store_true", help="never download weights")
    parser.set_defaults(in_tab=None)  # an option of `studio` alone
    return parser


def _run(arguments: Namespace, opens_page: bool | None) -> int:
    if arguments.ray is not None and find_spec("unisep_ray") is None:
        raise OptionError("--ray needs unisep-ray. Run: pip install unisep-ray")
    settings = settings_of(arguments, has_page=opens_page is not None)
    if arguments.strict_plugins:
        os.environ["UNISEP_PLUGINS_STRICT"] = "1"  # for the workers, too
    with Console(as_json=arguments.json, quiet=arguments.quiet) as console:
        from unisep_studio.app import run

        def started(url: str) -> None:
            console.data({"url": url, "tokens": list(settings.tokens)})
            console.lines([url])
            if settings.tokens and not arguments.token and not os.environ.get(TOKEN_VARIABLE):
                console.say(f"unisep: the token: {settings.tokens[0]}")
            if opens_page:
                webbrowser.open(f"{url}/#token={settings.tokens[0]}" if settings.tokens else url)

        run(settings, started)
    return 0
