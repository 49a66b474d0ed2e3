"""Take the screenshots of README.md and docs/: the report of a chain, and the page to try its server on.

pip install playwright  # it drives Chromium
recalign chain ml-100k && recalign export runs/ml-100k
python -m benchmarks.screenshots runs/ml-100k
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.lib import PICTURES

HISTORY = {"Star Wars": "5", "Alien (": "4", "Braveheart": "1"}
"""Titles that are searched for, and their rewards."""


def main(chain: Path) -> None:
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "recalign", "serve", str(chain), "--port", "0"]
    with sync_playwright() as driver, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        page = driver.chromium.launch(executable_path=shutil.which("chromium")).new_page()
        page.set_viewport_size({"width": 1100, "height": 760})
        page.goto((chain / "report.html").resolve().as_uri())
        page.screenshot(path=PICTURES / "report.png")
        assert server.stdout is not None
        page.goto(re.findall(r"http://\S+(?=,)", server.stdout.readline())[0])
        for title, reward in HISTORY.items():
            page.fill("#query", title)
            page.locator("#found button", has_text=title).first.click()
            page.locator("#history input[type=number]").last.fill(reward)
            page.keyboard.press("Tab")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=PICTURES / "try.png")
        server.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
