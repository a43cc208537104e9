"""Check a folder of distributions against the checkout that they were built from.

    python tests/packaging/check.py out/dist

For the core and for every plugin there must be one sdist and one wheel, all of one version, with licence and metadata
complete. A wheel holds every file of its package and nothing else: no tests, and no training code beside the models.
"""

from __future__ import annotations

import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
METADATA = (
    "Name", "Version", "Summary", "Keywords", "License-Expression", "License-File", "Requires-Python",
    "Description-Content-Type",
)  # fmt: skip
WITH_WEIGHTS = ("unisep-film", "unisep-clap")  # what answers queries offline; how it was trained is in unisep-train


@dataclass(frozen=True)
class Project:
    """A folder of the checkout with a `pyproject.toml`, and what that says."""

    folder: Path
    name: str
    version: str
    registers: bool  # commands, or a plugin of unisep

    @property
    def package(self) -> str:
        """The name of the import package, which is how the files of the distribution start, too."""
        return self.name.replace("-", "_")

    def files(self) -> set[str]:
        """Every file of the package, relative to the folder."""
        paths = (path for path in (self.folder / self.package).rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix() for path in paths if "__pycache__" not in path.parts}


def projects(root: Path = ROOT) -> list[Project]:
    """Return the core and every plugin of a checkout."""
    projects = []
    for definition in (root / "pyproject.toml", *sorted(root.glob("plugins/*/pyproject.toml"))):
        fields = tomllib.loads(definition.read_text(encoding="utf-8"))["project"]
        registers = bool({"scripts", "entry-points"} & set(fields))
        projects.append(Project(definition.parent, fields["name"], fields["version"], registers))
    return projects


def check_folder(folder: Path, expected: Iterable[Project]) -> list[str]:
    """Return what is wrong with the sdists and wheels in `folder`, a line each."""
    expected = list(expected)
    versions = {project.version for project in expected}
    problems = [f"more than one version: {', '.join(sorted(versions))}"] if len(versions) > 1 else []
    left = {path.name for path in folder.iterdir()}
    for project in expected:
        stem = f"{project.package}-{project.version}"
        for name, check in ((f"{stem}-py3-none-any.whl", check_wheel), (f"{stem}.tar.gz", check_sdist)):
            problems += check(folder / name, project) if name in left else [f"{name} is missing"]
            left.discard(name)
    return problems + [f"{name} is not of this checkout" for name in sorted(left)]


def check_wheel(wheel: Path, project: Project) -> list[str]:
    """Return what is wrong with a wheel, a line each."""
    info = f"{project.package}-{project.version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        licence = f"{info}/licenses/LICENSE"
        is_licensed = licence in names and archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    packed = {name for name in names if not name.startswith(f"{info}/")}
    problems = [*_metadata_problems(metadata, project)]
    problems += [f"{name} is missing" for name in sorted(project.files() - packed)]
    problems += [f"{name} does not belong there" for name in sorted(packed - project.files())]
    problems += [f"{name} is a test" for name in sorted(packed) if _is_test(PurePosixPath(name))]
    if not is_licensed:
        problems.append("the licence is missing, or is another than the repository's")
    if f"{project.package}/py.typed" not in packed:
        problems.append("py.typed is missing")
    if project.registers and f"{info}/entry_points.txt" not in names:
        problems.append("it registers no entry point")
    if project.name in WITH_WEIGHTS:
        if not any(name.endswith(".safetensors") for name in packed):
            problems.append("its weights are missing")
        problems += [f"{name} is training code" for name in sorted(packed) if "training" in PurePosixPath(name).parts]
    return [f"{wheel.name}: {problem}" for problem in problems]


def check_sdist(sdist: Path, project: Project) -> list[str]:
    """Return what is wrong with an sdist: it must hold all that a wheel is built from."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = project.files() | {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"}
    return [f"{sdist.name}: {name} is missing" for name in sorted(needed - names)]


def _metadata_problems(metadata: Message, project: Project) -> Iterable[str]:
    for field in METADATA:
        if not metadata.get(field):
            yield f"the metadata has no {field}"
    if (metadata["Name"], metadata["Version"]) != (project.name, project.version):
        yield f"the metadata is of {metadata['Name']} {metadata['Version']}"
    if metadata["Description-Content-Type"] != "text/markdown" or not str(metadata.get_payload()).strip():
        yield "its description is not the README"


def _is_test(path: PurePosixPath) -> bool:
    return path.suffix == ".py" and ("tests" in path.parts or path.stem == "conftest" or path.stem.startswith("test_"))


if __name__ == "__main__":
    problems = check_folder(Path(sys.argv[1]), projects())
    print("\n".join(problems) or f"{sys.argv[1]}: every sdist and wheel is complete")
    sys.exit(1 if problems else 0)
