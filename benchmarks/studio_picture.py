"""Draw the picture of the studio's page: the demo song, two sounds isolated by the models that come with unisep.

    python benchmarks/studio_picture.py --screenshot docs/studio.png
    python benchmarks/studio_picture.py --screenshot narrow.png --width 400 --dark --query bagpipes

Needs unisep-studio, playwright and Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from studio import Running  # beside this file

WAIT_SECONDS = 300


def draw(
    path: Path, queries: list[str], *, width: int, height: int, dark: bool, spectrum: bool, whole: bool = False
) -> None:
    """Write a PNG of the page with results."""
    from playwright.sync_api import sync_playwright

    plugins = ",".join(("unisep-studio", "unisep-film", "unisep-clap", "unisep-htdemucs"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        server = Running(Path(folder), "--no-open", command="studio", UNISEP_PLUGINS=plugins).start()
        executable = shutil.which("chromium") or driver.chromium.executable_path
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
            )
            page.goto(server.url)
            page.get_by_role("button", name="demo").click()
            page.get_by_label("What to isolate").fill(", ".join(queries))
            page.get_by_role("button", name="Isolate").click()
            page.get_by_role("region", name=queries[0]).first.wait_for(timeout=1000 * WAIT_SECONDS)
            until = time.monotonic() + WAIT_SECONDS
            while page.evaluate("document.querySelectorAll('.lane:not(.ready)').length") and time.monotonic() < until:
                page.wait_for_timeout(50)
            page.evaluate("unisepStudio.player.seek(7.3); unisepStudio.view.select([7.3, 10.9])")
            if spectrum:
                page.keyboard.press("v")
            page.wait_for_timeout(1500)
            page.screenshot(path=path, full_page=whole)
        finally:
            browser.close()
            server.stop(signal.SIGTERM)


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--screenshot", type=Path, required=True)
    parser.add_argument("--query", action="append")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1000)
    for flag in ("dark", "spectrum", "whole"):
        parser.add_argument(f"--{flag}", action="store_true")
    chosen = vars(parser.parse_args())
    path, queries = chosen.pop("screenshot"), chosen.pop("query") or ["electric guitar", "drums"]
    draw(path, queries, **chosen)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
