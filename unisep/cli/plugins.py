"""`unisep plugins` and `unisep new-plugin`, the options on plugins, and the commands that plugins add."""

from __future__ import annotations

import argparse
import keyword
import os
import re
import tempfile
from argparse import Namespace
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from string import Template

from unisep.cli.console import Console, columns
from unisep.errors import OptionError, PluginError, UnisepError
from unisep.plugins.loading import load_function
from unisep.plugins.plugin import Plugin
from unisep.plugins.registry import clash, installed, is_strict, problems, strictly, using
from unisep.plugins.specs import BackendSpec, CommandSpec, EncoderSpec, ModelSpec, Spec

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


def prepare(words: Sequence[str], stack: ExitStack, own: Collection[str]) -> tuple[list[str], list[str]]:
    """The options on plugins, which are in force until `stack` is closed, and the words without them.

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
        stack.enter_context(using(*given.plugin, must_work=not looking))
    if given.strict_plugins:
        stack.enter_context(strictly())
    options = [f"--plugin={path}" for path in given.plugin] + ["--strict-plugins"] * given.strict_plugins
    return options, rest


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
            code = load_function(self.spec)(arguments.words)
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
        for plugin in installed()
        for spec in plugin.specs_of(CommandSpec)
    )


def find(word: str, commands: Iterable[Command]) -> Command | None:
    """The command called `word`, or None. Raises PluginError when two plugins claim it."""
    found = [command for command in commands if word in (command.spec.name, command.key)]
    if len(found) > 1:
        owners = [(command.distribution, command.plugin) for command in found]
        raise PluginError(clash("command", found[0].spec.name, owners))
    return found[0] if found else None


_HEAD = ("NAME", "KIND", "PLUGIN", "LICENCE", "STATE", "GIVES")


def plugins(arguments: Namespace, console: Console) -> int:
    """0, also when a plugin is broken, since the list says which and why; 1 for any problem if that is strict."""
    found = installed(strict=False)
    console.data([plugin.to_json() for plugin in found])
    if not found:
        console.lines(["No plugin is installed. Run: pip install unisep-htdemucs unisep-film unisep-clap"])
        return 0
    console.lines(columns([_HEAD, *(row for plugin in found for row in _rows(plugin))]))
    for plugin in found:
        if plugin.error:
            console.say(f"\n{plugin.name} of {plugin.distribution} is {plugin.state}:")
            console.say(plugin.error.rstrip() if arguments.verbose else plugin.complaint)
    strictly = problems(found) if is_strict() else []
    for problem in strictly:
        console.say(f"unisep: error: {problem}")
    return 1 if strictly else 0


def _rows(plugin: Plugin) -> list[tuple[str, ...]]:
    origin = f"{plugin.distribution} {plugin.version}".strip()
    rows: list[tuple[str, ...]] = [
        (
            spec.name,
            spec.kind,
            origin,
            (isinstance(spec, ModelSpec) and spec.licence) or "-",
            plugin.state,
            _gives(spec),
        )
        for spec in plugin.specs
    ]
    return rows or [(plugin.name, "-", origin, "-", plugin.state, "")]


def _gives(spec: Spec) -> str:
    if isinstance(spec, BackendSpec):
        gives = [", ".join(spec.stems)] if spec.stems else []
        return "; ".join(gives + ([f"queries in {', '.join(spec.spaces)}"] if spec.spaces else []))
    if isinstance(spec, EncoderSpec):
        return f"{' and '.join(sorted(spec.modalities, reverse=True))} in {spec.space}"
    return spec.summary


VARIANTS = ("backend", "encoder")


_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Written:
    """The folder of the new distribution, and the files in it, in order."""

    folder: Path
    files: tuple[Path, ...]


def write_plugin(name: str, folder: Path, variant: str = "backend") -> Written:
    """The new distribution `folder`/unisep-`name`, complete or not there at all.

    name: with or without "unisep-" before it. variant: "backend" or "encoder".

    Raises:
        OptionError: a name that cannot be one, an unknown variant, or a folder that is there already.
    """
    short = name.removeprefix("unisep-")
    if not _NAME.fullmatch(short) or len(short) > 50:
        raise OptionError(
            f"{name!r} cannot be the name of a plugin: lower-case letters, digits and single '-' between them, "
            "beginning with a letter, such as 'my-model'."
        )
    if variant not in VARIANTS:
        raise OptionError(f"kind={variant!r} is unknown. Possible: {', '.join(VARIANTS)}.")
    place = folder / f"unisep-{short}"
    if place.exists() or place.is_symlink():
        raise OptionError(f"{place} is there already, and is left as it is. Choose another name or --folder.")
    texts = rendered(short, variant)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unisep-") as scratch:
            whole = Path(scratch) / place.name
            for path, text in texts.items():
                (whole / path).parent.mkdir(parents=True, exist_ok=True)
                (whole / path).write_text(text, encoding="utf-8", newline="\n")
            whole.rename(place)
    except OSError as error:
        raise OptionError(f"{place} cannot be written ({error}). Choose another --folder.") from error
    return Written(place, tuple(place / path for path in texts))


def rendered(short: str, variant: str) -> dict[PurePosixPath, str]:
    """The files of the distribution unisep-`short`, by their place in it."""
    templates = sorted(_templates(resources.files("unisep.cli") / "templates" / variant, PurePosixPath()))
    texts = {place: template.read_text(encoding="utf-8") for place, template in templates}
    words = "".join(part.capitalize() for part in short.split("-"))
    is_taken = keyword.iskeyword(words) or any(re.search(rf"\b{words}\b", text) for text in texts.values())
    words += "Model" if is_taken else ""  # what the templates import keeps its name
    names = {"name": short, "package": f"unisep_{short.replace('-', '_')}", "Class": words}
    found = {}
    for place, text in texts.items():
        path = (
            str(place)
            .removesuffix(".txt")
            .replace("package/", f"{names['package']}/")
            .replace("test_name", f"test_{short.replace('-', '_')}")
        )
        found[PurePosixPath(path)] = Template(text).substitute(names)
    return found


def _templates(folder: Traversable, inside: PurePosixPath) -> list[tuple[PurePosixPath, Traversable]]:
    found: list[tuple[PurePosixPath, Traversable]] = []
    for entry in folder.iterdir():
        place = inside / entry.name
        found += _templates(entry, place) if entry.is_dir() else [(place, entry)] if entry.name.endswith(".txt") else []
    return found


def add_new_plugin(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "new-plugin",
        parents=[common],
        help="write a plugin to start from",
        description="Write the distribution unisep-NAME: hooks, a model that works, and tests that pass.",
    )
    parser.set_defaults(command="new-plugin")
    parser.add_argument("name", metavar="NAME", help="lower-case letters, digits and '-', such as my-model")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="where the folder unisep-NAME is made (default: here)",
    )
    parser.add_argument(
        "--kind", choices=sorted(VARIANTS), default="backend", help="what it offers (default: %(default)s)"
    )


def new_plugin(arguments: Namespace, console: Console) -> int:
    """0; prints the folder that was written."""
    written = write_plugin(arguments.name, arguments.folder, arguments.kind)
    console.data({"folder": str(written.folder), "files": [str(path) for path in written.files]})
    console.lines([str(written.folder)])
    console.note(f"unisep: {len(written.files)} files. Try them: cd {written.folder}; pip install -e .; pytest")
    return 0
