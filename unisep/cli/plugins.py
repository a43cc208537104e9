"""`unisep plugins`: what is installed, and what is broken; `unisep new-plugin`: a distribution to start from."""

from __future__ import annotations

import keyword
import re
import tempfile
from argparse import Namespace
from pathlib import Path
from string import Template

from unisep.cli.console import Console, columns
from unisep.errors import OptionError
from unisep.plugins.plugin import Plugin
from unisep.plugins.registry import installed, is_strict, problems
from unisep.plugins.specs import BackendSpec, EncoderSpec, ModelSpec, Spec

_HEADS = ("NAME", "KIND", "PLUGIN", "LICENCE", "STATE", "GIVES")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def plugins(arguments: Namespace, console: Console) -> int:
    """List the plugins. Return 0, also when one is broken, since the list says which and why; 1 for any problem if strict."""
    listed = installed(strict=False)
    console.data([plugin.to_json() for plugin in listed])
    if not listed:
        console.lines(["No plugin is installed. Run: pip install unisep-htdemucs unisep-film unisep-clap"])
        return 0
    console.lines(columns([_HEADS, *(row for plugin in listed for row in _rows(plugin))]))
    for plugin in listed:
        if plugin.error:
            console.say(f"\n{plugin.name} of {plugin.distribution} is {plugin.state}:")
            console.say(plugin.error.rstrip() if arguments.verbose else plugin.complaint)
    sentences = problems(listed) if is_strict() else []
    for sentence in sentences:
        console.say(f"unisep: error: {sentence}")
    return 1 if sentences else 0


def _rows(plugin: Plugin) -> list[tuple[str, ...]]:
    origin = f"{plugin.distribution} {plugin.version}".strip()
    if not plugin.specs:
        return [(plugin.name, "-", origin, "-", plugin.state, "")]
    return [(spec.name, spec.kind, origin, _licence(spec) or "-", plugin.state, _gives(spec)) for spec in plugin.specs]


def _licence(spec: Spec) -> str:
    return spec.licence if isinstance(spec, ModelSpec) else ""


def _gives(spec: Spec) -> str:
    if isinstance(spec, BackendSpec):
        stems, queries = ", ".join(spec.stems), f"queries in {', '.join(spec.spaces)}" if spec.spaces else ""
        return "; ".join(part for part in (stems, queries) if part)
    if isinstance(spec, EncoderSpec):
        return f"{' and '.join(sorted(spec.modalities, reverse=True))} in {spec.space}"
    return spec.summary


def new_plugin(arguments: Namespace, console: Console) -> int:
    """Write a distribution, print its folder, and return 0."""
    folder, files = write_plugin(arguments.name, arguments.folder, arguments.kind)
    console.data({"folder": str(folder), "files": [str(path) for path in files]})
    console.lines([str(folder)])
    console.note(f"unisep: {len(files)} files. Try them: cd {folder}; pip install -e .; pytest")
    return 0


def write_plugin(name: str, parent: Path, kind: str = "backend") -> tuple[Path, list[Path]]:
    """Write the distribution unisep-`name` in the folder `parent`, complete or not at all; return its folder and files.

    Raises:
        OptionError: A name that cannot be one, or a folder that is there already or cannot be written.
    """
    short = name.removeprefix("unisep-")
    if not _NAME.fullmatch(short) or len(short) > 50:
        raise OptionError(
            f"{name!r} cannot be the name of a plugin: lower-case letters, digits and single '-' between them, "
            "beginning with a letter, such as 'my-model'."
        )
    folder = parent / f"unisep-{short}"
    if folder.exists() or folder.is_symlink():
        raise OptionError(f"{folder} is there already, and is left as it is. Choose another name or --folder.")
    texts = rendered(short, kind)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".unisep-") as scratch:
            for path, text in texts.items():
                file = Path(scratch, folder.name, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8", newline="\n")
            Path(scratch, folder.name).rename(folder)
    except OSError as error:
        raise OptionError(f"{folder} cannot be written ({error}). Choose another --folder.") from error
    return folder, [folder / path for path in texts]


def rendered(short: str, kind: str) -> dict[str, str]:
    """Return the texts of the distribution unisep-`short`, by their paths in it."""
    root = Path(__file__).with_name("templates") / kind
    places = sorted(root.rglob("*.txt"))
    texts = {place.relative_to(root).as_posix(): place.read_text(encoding="utf-8") for place in places}
    name = short.replace("-", "_")
    class_name = "".join(part.capitalize() for part in short.split("-"))
    if keyword.iskeyword(class_name) or any(re.search(rf"\b{class_name}\b", text) for text in texts.values()):
        class_name += "Model"  # what the templates import keeps its name
    fields = {"name": short, "package": f"unisep_{name}", "Class": class_name}

    def renamed(path: str) -> str:
        return path.replace("package/", f"unisep_{name}/").replace("test_name", f"test_{name}").removesuffix(".txt")

    return {renamed(path): Template(text).substitute(fields) for path, text in texts.items()}
