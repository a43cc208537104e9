"""What plugins have to do with the command line itself: those given by hand, and the commands they add."""

from __future__ import annotations

import argparse
import os
from argparse import Namespace
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from unisep import plugins
from unisep.cli.console import Console
from unisep.errors import PluginError, UnisepError
from unisep.extensions import CommandSpec

LOOKING = ("plugins", "doctor")  # these show a plugin that does not work instead of refusing to start


def plugin_options(*, allow_abbrev: bool = False) -> argparse.ArgumentParser:
    """The options on plugins, which every command takes and which count before the command is known."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=allow_abbrev)
    group = parser.add_argument_group("plugins")
    group.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a plugin of your own: a .py file, or a folder of them; may be repeated",
    )
    group.add_argument(
        "--strict-plugins",
        action="store_true",
        help="a plugin with a problem is an error (also with UNISEP_PLUGINS_STRICT=1)",
    )
    return parser


def prepare(words: Sequence[str], stack: ExitStack, own: Collection[str]) -> list[str]:
    """The words without the options on plugins, which are in force until `stack` is closed.

    own: the commands of unisep, whose options may be shortened; what looks like a shortened one after the
        command of a plugin is that command's.

    Raises:
        PluginError: a plugin that was given is not there, or does not work and the command needs it.
        SystemExit: an option without its value.
    """
    given, rest = plugin_options().parse_known_args(list(words))
    if rest and rest[0] in own:
        given, rest = plugin_options(allow_abbrev=True).parse_known_args(list(words))
    looking = bool(rest) and rest[0] in LOOKING
    if given.plugin:
        stack.enter_context(plugins.using(*given.plugin, must_work=not looking))
    if given.strict_plugins:
        stack.enter_context(plugins.strictly())
    return rest


@dataclass(frozen=True)
class Command:
    """A command that a plugin adds, its distribution, and the plugin's name."""

    spec: CommandSpec
    distribution: str
    plugin: str

    @property
    def key(self) -> str:
        """The name that no other distribution can claim."""
        return f"{self.distribution}:{self.spec.name}"

    def arguments(self, words: Sequence[str]) -> Namespace:
        """What `main` runs: this command with the words after its name."""
        debug = os.environ.get("UNISEP_DEBUG", "0") not in ("", "0")
        return Namespace(command=self, words=list(words), json=False, quiet=False, debug=debug)

    def run(self, arguments: Namespace, console: Console) -> int:
        """The exit code. What it raises of unisep's own errors is passed on, and an exit.

        Raises:
            PluginError: it cannot be loaded, or failed in any other way; when debugging, that error itself.
        """
        try:
            code = plugins.load_function(self.spec)(arguments.words)
        except (UnisepError, BrokenPipeError):
            raise
        except Exception as error:
            if arguments.debug:
                raise
            raise PluginError(
                f"The command {self.key} failed: {type(error).__name__}: {error}. "
                "Set UNISEP_DEBUG=1 to see where, and tell its author."
            ) from error
        if code is not None and (isinstance(code, bool) or not isinstance(code, int)):
            raise PluginError(f"The command {self.key} returned {code!r}, not an exit code. Tell its author.")
        return code or 0


def added() -> tuple[Command, ...]:
    """The commands of all plugins that work."""
    return tuple(
        Command(spec, plugin.distribution, plugin.name)
        for plugin in plugins.installed()
        for spec in plugin.commands
    )


def find(word: str, commands: Iterable[Command]) -> Command | None:
    """The command called `word`, or None. Raises PluginError when two plugins claim it."""
    found = [command for command in commands if word in (command.spec.name, command.key)]
    if len(found) > 1:
        owners = [(command.distribution, command.plugin) for command in found]
        raise PluginError(plugins.clash("command", found[0].spec.name, owners))
    return found[0] if found else None
