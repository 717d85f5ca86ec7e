"""Speed of the explorer with many objects: opening, selecting an object, neighbour search, redrawing.

    python benchmarks/explore.py --objects 200000 1000000

The features are random numbers in the format that `fit` writes; the page runs in Chromium (with software
rendering). The last line is one JSON object with, for each number of objects, the seconds from the command to
the first drawing of the points, and the milliseconds of a request for one object, of a request for exact
nearest neighbours, and of redrawing all points.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepfits.files import write_json
from deepfits.provenance import provenance

SHARD, LATENTS, BANDS = 20_000, 64, "ugriz"
FLAGS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--use-gl=angle",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip


def make_features(directory: Path, number: int) -> Path:
    """Write random features of `number` objects."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for first in range(0, number, SHARD):
        count = min(SHARD, number - first)
        latent = rng.normal(size=(count, LATENTS)).astype(np.float32)
        columns = {
            "object_id": np.arange(first, first + count),
            "ra": rng.uniform(149, 151, count),
            "dec": rng.uniform(1, 3, count),
            "latent": pa.FixedSizeListArray.from_arrays(latent.ravel(), LATENTS),
            "chi2": rng.chisquare(5000, count).astype(np.float32),
            "dof": np.full(count, 5000),
            **{f"flux_model_{band}": 10 ** rng.normal(2, 0.6, count).astype(np.float32) for band in BANDS},
        }
        pq.write_table(pa.table(columns), directory / f"shard-{first // SHARD:05d}.parquet")
    write_json(directory / "_features.json", {"schema_version": 1, "settings": {}, "summary": {}})
    return directory


def measure(features: Path, number: int, chromium: str) -> dict[str, float]:
    """Open the explorer on features, drive its page, and return the times."""
    from playwright.sync_api import sync_playwright

    begin = time.perf_counter()
    code = f"import deepfits; deepfits.explore({str(features)!r}, port=8671, open_browser=False)"
    server = subprocess.Popen([sys.executable, "-c", code])
    try:
        while True:
            try:
                urllib.request.urlopen("http://127.0.0.1:8671/api/about", timeout=60).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise
                time.sleep(0.05)
        served = time.perf_counter() - begin
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(viewport={"width": 1400, "height": 850})
            page.set_default_timeout(300_000)
            begin_page = time.perf_counter()
            page.goto("http://127.0.0.1:8671/")
            page.wait_for_function("window.deepfits && window.deepfits.ready")
            opened = served + time.perf_counter() - begin_page
            rng = np.random.default_rng(2)
            clicks, neighbours, frames = [], [], []
            for row in rng.integers(0, number, 9).tolist():
                clicks.append(_timed(page, f"fetch('/api/object/{row}').then((r) => r.json())"))
                body = json.dumps({"like": [row], "number": 24})
                neighbours.append(
                    _timed(
                        page,
                        "fetch('/api/neighbours', {method: 'POST', headers: {'x-deepfits': '1'}, "
                        f"body: {json.dumps(body)}}}).then((r) => r.json())",
                    )
                )
            for level in range(5):
                frames.append(_timed(page, _FRAME.replace("LEVEL", str(level))))
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return {
        "open_s": opened,
        "click_ms": statistics.median(clicks),
        "neighbours_ms": statistics.median(neighbours),
        "frame_ms": statistics.median(frames),
    }


_FRAME = """new Promise((done) => {
  const plot = window.deepfits.plot;
  plot.subscribe('draw', () => done(null), 1);
  plot.set({ opacity: 0.5 + 0.05 * LEVEL });
})"""


def _timed(page, expression: str) -> float:  # type: ignore[no-untyped-def]
    """Return the milliseconds until a promise in the page resolves."""
    body = f"const begin = performance.now(); await {expression}; return performance.now() - begin;"
    return float(page.evaluate(f"async () => {{ {body} }}"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, nargs="+", default=[200_000, 1_000_000])
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("this benchmark needs Chromium: apt-get install chromium")
    figures = {}
    for number in arguments.objects:
        with tempfile.TemporaryDirectory() as directory:
            figures[str(number)] = measure(
                make_features(Path(directory) / "features", number), number, chromium
            )
        print(number, {name: round(value, 2) for name, value in figures[str(number)].items()}, flush=True)
    print(json.dumps({"benchmark": "explore", **figures, **provenance()}))


if __name__ == "__main__":
    main()
