"""Install `unisep[all]` from a folder of distributions into a fresh environment, and use it as a user would.

    python tests/packaging/install.py out/dist

Everything runs in a temporary folder outside of the checkout. Other packages come from pip's index, in the versions of
constraints.txt; that ours come from the folder alone is made sure of by pip's own report. Then the demo's queries are
asked, offline.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What a user's shell has, but for what could lead back to the checkout or past the network switch.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UNISEP", "HF_"))}


def run(command: Sequence[str | Path], place: Path, **variables: str) -> str:
    """Run a command in the folder `place` and return what it printed; end with what it said if it fails."""
    print("$", *command, flush=True)
    environment = {**ENVIRONMENT, **variables}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nended with {done.returncode}")
    return done.stdout


def install(dist: Path, place: Path) -> Path:
    """Install `unisep[all]` into a new environment below `place` and return the folder of its programs."""
    venv.create(place / "venv", with_pip=True)
    programs = place / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = (programs / "python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    options = ("-c", ROOT / "constraints.txt", "--find-links", dist, "--report", place / "report.json")
    run((*pip, *options, "unisep[all]"), place)
    check_origins(json.loads((place / "report.json").read_text(encoding="utf-8")), dist)
    return programs


def check_origins(report: dict, dist: Path) -> None:
    """End with an error unless everything of ours was installed from the folder `dist`."""
    for item in report["install"]:
        name, url = item["metadata"]["name"], item["download_info"]["url"]
        is_ours = name.startswith("unisep")
        if is_ours != url.startswith(f"{dist.as_uri()}/"):
            sys.exit(f"{name} was installed from {url}")
        if is_ours:
            print(f"  {name} {item['metadata']['version']} from {url}")


def use(programs: Path, place: Path) -> None:
    """List the plugins, ask the demo's queries and print the help of a plugin's command; all of it offline."""
    unisep = programs / "unisep"
    plugins = json.loads(run((unisep, "plugins", "--json"), place))
    broken = [plugin for plugin in plugins if plugin["state"] != "ok"]
    if broken or not plugins:
        sys.exit(f"not every plugin is in order: {broken}")
    print(run((unisep, "plugins"), place))
    shutil.copy(ROOT / "examples" / "demo.py", place)
    shutil.copytree(ROOT / "examples" / "audio", place / "audio")
    print(run((programs / "python", "demo.py", "--out", "results"), place, HF_HUB_OFFLINE="1"))
    print(run((unisep, "evaluate", "--help"), place).splitlines()[0])
    refused = subprocess.run(
        (unisep, "models", "pull", "best"), cwd=place, env=ENVIRONMENT, input="", capture_output=True, text=True
    )
    if refused.returncode != 2 or "htdemucs_ft" not in refused.stderr or "--yes" not in refused.stderr:
        sys.exit(f"the best models were not shown and asked about:\n{refused.stderr}")
    print(refused.stderr)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        use(install(Path(sys.argv[1]).resolve(), Path(folder)), Path(folder))
