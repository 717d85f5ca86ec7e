"""Photograph the report and the explorer of a run for the README and the documentation.

Run: python docs/make_screenshots.py RUN [--only report|explorer], with a run that `make demo` made. It needs
Chromium, playwright and the packages of the explorer.
"""

from __future__ import annotations

import argparse
import io
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from deepfits.explorer.launch import load_drawer, load_objects
from deepfits.explorer.server import make_app

IMAGES = Path(__file__).with_name("images")
SIZE = {"width": 1240, "height": 780}
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE_MS = 240_000


def save(page: Page, name: str) -> None:
    """Save what is in the window as a small PNG."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(IMAGES / name, optimize=True)
    print(IMAGES / name)


@contextmanager
def served(run: Path) -> Iterator[tuple[str, str]]:
    """Serve a run's explorer; give its address and the identity of a bright galaxy that is fitted well."""
    objects = load_objects(run)
    drawer = load_drawer(objects, run)
    app = make_app(objects, drawer, title="demo")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    bright = np.argsort(objects.brightness)[len(objects) // 40 : len(objects) // 12]
    bright = bright[objects.column("flags")[bright] == 0]
    yield address, str(objects.object_id[bright[np.nanargmin(objects.column("reduced_chi2")[bright])]])
    server.should_exit = True
    thread.join()


def photograph_explorer(browser: Browser, run: Path) -> None:
    """Show the map, coloured by a colour, and a bright galaxy with its fit."""
    with served(run) as (address, identity):
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        page.wait_for_function("window.deepfits?.complete")
        page.select_option("#colour", "g_minus_r")
        page.fill("#find-id", identity)
        page.press("#find-id", "Enter")
        page.wait_for_selector("#object-id")
        page.wait_for_function("document.getElementById('panels').naturalWidth > 0")
        page.wait_for_timeout(4000)
        save(page, "explorer.png")


def photograph_report(browser: Browser, run: Path) -> None:
    """Show the first screen of the report."""
    page = browser.new_page(viewport=SIZE)
    page.set_default_timeout(PATIENCE_MS)
    page.goto((run / "report" / "index.html").resolve().as_uri())
    page.wait_for_timeout(1500)
    save(page, "report.png")


def main() -> None:
    """Parse the command line and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", choices=("report", "explorer"))
    given = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        if given.only != "report":
            photograph_explorer(browser, given.run)
        if given.only != "explorer":
            photograph_report(browser, given.run)
        browser.close()


if __name__ == "__main__":
    main()
