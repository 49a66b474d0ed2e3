"""Take the screenshots of README.md and docs/: the report of a chain, and the page to try its server on.

pip install playwright                     # and a Chromium or Chrome
recalign chain ml-100k && recalign export runs/ml-100k
python -m benchmarks.screenshots runs/ml-100k
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.lib import PICTURES

HISTORY = {"Star Wars": 5, "Alien (": 4, "Braveheart": 1}
"""Titles that are searched for, and how they are rated where the policy reads that."""
SIZE: Any = {"width": 1100, "height": 760}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chain", type=Path, help="folder of a chain that recalign export has been called with")
    chain = parser.parse_args().chain
    with opened() as page:
        page.goto((chain / "report.html").resolve().as_uri())
        page.screenshot(path=PICTURES / "report.png")
        with serving(chain) as address:
            page.goto(address)
            page.locator("#lists li").first.wait_for()
            for title, reward in HISTORY.items():
                add(page, title, reward)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=PICTURES / "try.png")


def add(page: Any, title: str, reward: float) -> None:
    """Add the first item that a search finds to the history, with its reward where there is a field for that."""
    page.fill("#query", title)
    page.locator("#found button", has_text=title).first.click()
    fields = page.locator("#history input")
    if fields.count():
        fields.last.fill(str(reward))
        fields.last.press("Tab")


@contextmanager
def opened() -> Iterator[Any]:
    """A page of a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
        browser = driver.chromium.launch(executable_path=path)
        yield browser.new_page(viewport=SIZE, color_scheme="light")
        browser.close()


@contextmanager
def serving(chain: Path) -> Iterator[str]:
    """The address of a server of a chain's bundles."""
    command = [sys.executable, "-m", "recalign", "serve", str(chain), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+(?=,)", server.stdout.readline())
        try:
            assert found, "the server does not start"
            yield found[0]
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
