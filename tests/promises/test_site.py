"""The site has every page in its menu, and every public name in its API reference."""

import pydoc
import re
from pathlib import Path

import yaml

import unisep
import unisep.errors
import unisep.testing

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "reference").glob("*.md")))
DOCUMENTED = set(re.findall(r"^::: (\S+)", REFERENCE, re.MULTILINE))


def pages(entry):
    """The pages of an entry of the menu, those below it too."""
    if isinstance(entry, str):
        return [entry]
    return [page for item in (entry.values() if isinstance(entry, dict) else entry) for page in pages(item)]


def is_error(value):
    return isinstance(value, type) and issubclass(value, unisep.errors.UnisepError)


def test_every_page_is_in_the_menu_once():
    menu = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(menu) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_every_public_name_is_in_the_reference():
    names = {f"unisep.{name}" for name in unisep.__all__}
    assert names - DOCUMENTED == {"unisep.hookimpl"}
    assert "`@unisep.hookimpl`" in REFERENCE


def test_every_error_is_in_the_reference():
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    errors = {error.__name__ for error in vars(unisep.errors).values() if is_error(error)}
    assert set(re.findall(r"^ +- (\w+)$", page, re.MULTILINE)) == errors


def test_the_kit_is_in_the_reference():
    listed = {name for members in re.findall(r"members: \[(.*)\]", REFERENCE) for name in members.split(", ")}
    kit = set(unisep.testing.__all__)
    assert kit <= {name.rpartition(".")[2] for name in DOCUMENTED} | listed


def test_what_the_reference_names_is_there_and_documented():
    unions = {"unisep.AudioLike", "unisep.QueryLike"}  # what says what they are is in the source alone
    assert [name for name in DOCUMENTED - unions if not getattr(pydoc.locate(name), "__doc__", "")] == []
