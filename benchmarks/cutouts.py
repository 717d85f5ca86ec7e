"""Cutouts per second: the stage `cutouts` against a plain loop over `astropy.nddata.Cutout2D`.

Both start from the same FITS files (five bands, image and weight) and the same catalogue. `speedup_vs_loop`
is the ratio of the times from FITS files to arrays in memory, the median over alternating pairs of runs;
`speedup_with_hdf5` includes writing HDF5. The loop processes a sample of the objects, and its time is scaled
to all of them. The whole stage runs in its own process, whose peak memory is reported. All times are CPU
times, which exclude waiting for the disk.

    python benchmarks/cutouts.py --side 4200 --objects 40000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

from deepfits.provenance import provenance
from deepfits.survey.catalogue import read_catalogue
from deepfits.survey.cutting import cut
from deepfits.survey.fields import image_set, open_field
from deepfits.survey.store import CutoutStore
from deepfits.tables import write_table

BANDS = "ugriz"
SIZE = 32


def make_sky(directory: Path, side: int, objects: int, seed: int = 0) -> Path:
    """Write noise images of five bands with point sources, weights and a catalogue; return the catalogue."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, side - 1, (2, objects))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [side / 2, side / 2], [-0.168 / 3600, 0.168 / 3600]
    for band in BANDS:
        image = rng.normal(0, 1.0, (side, side)).astype(np.float32)
        np.add.at(image, (np.rint(y).astype(int), np.rint(x).astype(int)), np.float32(100.0))
        header = wcs.to_header()
        header["FILTER"], header["MAGZERO"] = band, 31.4
        fits.writeto(directory / f"coadd-{band}.fits", image, header)
        fits.writeto(directory / f"coadd-{band}.weight.fits", np.ones_like(image), header)
    identity = np.arange(1, objects + 1)
    return write_table(directory / "catalogue.parquet", {"object_id": identity, "x": x, "y": y})


def plain_loop(directory: Path, x: np.ndarray, y: np.ndarray, out: Path) -> tuple[float, float]:
    """Cut with Cutout2D, one object and band at a time, and write HDF5; return the seconds of each step."""
    start = time.process_time()
    image = np.zeros((len(x), len(BANDS), SIZE, SIZE), np.float32)
    weight = np.zeros_like(image)
    for index, band in enumerate(BANDS):
        for end, target in (("", image), (".weight", weight)):
            data = fits.getdata(directory / f"coadd-{band}{end}.fits").astype(np.float32)
            for row in range(len(x)):
                place = (x[row], y[row])
                target[row, index] = Cutout2D(data, place, SIZE, mode="partial", fill_value=0).data
    cut_seconds = time.process_time() - start
    start = time.process_time()
    with h5py.File(out, "w") as file:
        file["image"], file["weight"] = image, weight
    return cut_seconds, time.process_time() - start


def our_cutting(directory: Path, columns: dict[str, np.ndarray], shard_size: int = 2048) -> float:
    """Cut all objects from FITS files into arrays of one shard, which are discarded; return the seconds."""
    start = time.process_time()
    images = image_set(directory)
    order = np.argsort(columns["y"], kind="stable")
    with open_field(images.fields[0], images) as field:
        for first in range(0, len(order), shard_size):
            rows = order[first : first + shard_size]
            image, weight = (np.zeros((len(rows), len(BANDS), SIZE, SIZE), np.float32) for _ in range(2))
            for index, band in enumerate(BANDS):
                place = columns["x"][rows], columns["y"][rows]
                cut(field.aligned[band], *place, SIZE, out=(image[:, index], weight[:, index]))
    return time.process_time() - start


def reading_time(directory: Path) -> float:
    """Return the seconds for reading all files once, a cost that does not depend on the sample size."""
    start = time.process_time()
    for band in BANDS:
        for end in ("", ".weight"):
            fits.getdata(directory / f"coadd-{band}{end}.fits").astype(np.float32)
    return time.process_time() - start


def stage_alone(directory: Path, catalogue: Path, out: Path) -> tuple[float, float]:
    """Run the stage in its own process; return its seconds, excluding imports, and its peak memory in MB."""
    command = [sys.executable, __file__, "--stage", str(directory), str(catalogue), str(out)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(lines[-2]), float(lines[-1])


def stage_here(directory: str, catalogue: str, out: str) -> None:
    """Run the stage in this process, for `stage_alone`, and print its seconds and peak memory in MB."""
    import deepfits.survey.build

    start = time.process_time()
    deepfits.cutouts(directory, out, catalogue=catalogue)
    seconds = time.process_time() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4200)
    parser.add_argument("--objects", type=int, default=40_000)
    parser.add_argument("--sample", type=int, default=2000, help="number of objects for the plain loop")
    parser.add_argument(
        "--pairs", type=int, default=5, help="alternating runs of the loop and the stage's cutting"
    )
    parser.add_argument("--stage", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        stage_here(*arguments.stage)
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "sky"
        directory.mkdir()
        catalogue = make_sky(directory, arguments.side, arguments.objects)
        columns = read_catalogue(catalogue)
        which = np.random.default_rng(1).permutation(arguments.objects)[: arguments.sample]
        place, share = (columns["x"][which], columns["y"][which]), arguments.objects / arguments.sample
        pairs = []
        for _ in range(arguments.pairs):
            reading = reading_time(directory)
            loop, writing = plain_loop(directory, *place, Path(temporary) / "loop.h5")
            pairs.append(
                (our_cutting(directory, columns), reading + (loop - reading) * share, reading, writing)
            )
        cutting, loop_cut, reading, writing = np.median(pairs, axis=0)
        loop_all = loop_cut + writing * share
        low, ratio, high = np.percentile([pair[1] / pair[0] for pair in pairs], (25, 50, 75))
        seconds, memory = stage_alone(directory, catalogue, Path(temporary) / "store")
        store = CutoutStore(Path(temporary) / "store")
        same = check_equal(store, Path(temporary) / "loop.h5", which)
        result = {
            "objects": arguments.objects,
            "side": arguments.side,
            "bands": len(BANDS),
            "cutouts_per_s": round(arguments.objects / cutting, 1),
            "loop_cutouts_per_s": round(arguments.objects / loop_cut, 1),
            "speedup_vs_loop": round(ratio, 2),
            "speedup_quartiles": [round(low, 2), round(high, 2)],
            "cutting_seconds": round(cutting, 2),
            "loop_seconds": round(loop_cut, 2),
            "reading_seconds": round(reading, 2),
            "stage_seconds": round(seconds, 2),
            "loop_with_hdf5_seconds": round(loop_all, 2),
            "speedup_with_hdf5": round(loop_all / seconds, 2),
            "peak_memory_mb": round(memory),
            "same_numbers": same,
            "provenance": provenance(),
        }
    print(
        f"{arguments.objects} objects of {len(BANDS)} bands, {SIZE}×{SIZE} pixels, image and weight.\n"
        f"From FITS files to arrays: {cutting:.1f} s of CPU time; the plain loop over Cutout2D takes "
        f"{loop_cut:.1f} s (measured on {arguments.sample} objects), {ratio:.1f} times as long "
        f"(quartiles of {arguments.pairs} pairs: {low:.1f} to {high:.1f}). Reading the files alone takes "
        f"{reading:.1f} s.\n"
        f"The whole stage, with seeing, checks, neighbours and HDF5: {seconds:.1f} s and {memory:.0f} MB; "
        f"the loop with HDF5: {loop_all:.1f} s."
    )
    print(json.dumps(result))


def check_equal(store: CutoutStore, loop: Path, which: np.ndarray) -> bool:
    """Tell whether the stage and the loop return the same images and weights."""
    identity = store.catalogue(columns=[])["object_id"]
    rows = np.argsort(identity)[which[:200]]
    ours = store.take(rows)
    with h5py.File(loop) as file:
        return bool(
            np.allclose(ours.image, file["image"][:200]) and (ours.weight == file["weight"][:200]).all()
        )


if __name__ == "__main__":
    main()
