"""The walks of docs/data-flow.md are those that a call takes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from unisep import Separator
from unisep.testing import noise, toy_plugin

PAGE = Path(__file__).parents[2] / "docs" / "data-flow.md"
WALKS = [
    [line.split()[0] for line in block.splitlines() if line.strip()]
    for block in re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
]


@pytest.fixture(scope="module")
def called() -> list[str]:
    """The functions of unisep that a call with a text and an example enters, by name, in the order of their first time."""
    names: dict[str, None] = {}

    def trace(frame, event: str, _argument: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("unisep."):
            names.setdefault(f"{module.removeprefix('unisep.')}.{frame.f_code.co_qualname}")

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # all in the thread that is traced
    queries = ["guitar", {"audio": noise(0.2), "exclude": "hat", "name": "bright"}]
    with toy_plugin(), Separator(query_backend="toy", encoder="toy", offline=True) as separator:
        sys.setprofile(trace)
        try:
            separator.separate(noise(2.5, 48_000), queries, route="conditioned")
        finally:
            sys.setprofile(None)
            torch.set_num_threads(n_threads)
    return list(names)


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk[0])
def test_the_page_lists_the_steps_in_their_order(walk: list[str], called: list[str]) -> None:
    assert [name for name in walk if name not in called] == [], "these are not called"
    assert [name for name in called if name in walk] == walk


def test_every_room_on_the_way_is_on_the_page(called: list[str]) -> None:
    leaves = {"audio", "progress", "errors", "plugins", "separation", "testing"}
    packages = {name.split(".")[0] for name in called} - leaves
    assert packages <= {name.split(".")[0] for walk in WALKS for name in walk} | {"weights"}


def test_the_walk_of_a_query_is_short() -> None:
    modules = [
        name.rsplit(".", 2 if ".Preparer." in name or ".ModelPool." in name or ".Separator." in name else 1)[0]
        for name in WALKS[0]
    ]
    stays = [module for place, module in enumerate(modules) if place == 0 or modules[place - 1] != module]
    assert len(WALKS[0]) <= 18 and len(set(modules)) <= 11
    assert len(stays) - len(set(stays)) <= 6
