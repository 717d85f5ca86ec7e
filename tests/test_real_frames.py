"""The whole way on real frames, one command a stage, from what the survey delivers to the report."""

import json

import h5py
import numpy as np
import pytest

from deepfits.survey.store import CutoutStore
from tests.helpers.command import run_cli
from tests.helpers.real_data import REAL_DATA


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not (REAL_DATA / "sdss").is_dir(), reason=f"no SDSS frames in {REAL_DATA / 'sdss'}")
def test_sdss_frames_stage_by_stage(tmp_path):
    """As a user would: one command a stage, on a field as SDSS delivers it."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for path in (REAL_DATA / "sdss").glob("frame-*-001035-6-0017.fits.bz2"):
        (frames / path.name).symlink_to(path)

    def deepfits_command(*arguments):
        done = run_cli(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    deepfits_command("cutouts", "frames", "--out", "run/cutouts")
    small = ("--recipe", "tiny", "--steps", "60", "--set", "width=32")
    deepfits_command("train", "run/cutouts", "--out", "run/model", *small)
    for mode in ("embedder", "both"):
        options = ["--mode", mode, "--held-out-only"]
        deepfits_command("fit", "run/cutouts", "run/model", "--out", f"run/features-{mode}", *options)
    inpainting = ("--out", "run/inpaint-u", "--held-out-only", "--num-calibration", "50")
    deepfits_command("inpaint", "run/cutouts", "run/model", *inpainting)
    deepfits_command("report", "run")

    store = CutoutStore(tmp_path / "run" / "cutouts")
    assert store.info.bands == ("u", "g", "r", "i", "z")
    assert len(store) > 500  # sources of a field down to 5 sigma
    assert store.info.pixel_scale_arcsec == pytest.approx(0.396, abs=0.001)
    _assert_bands_are_aligned(store)
    summary = json.loads((tmp_path / "run" / "report" / "summary.json").read_text())
    chi2 = {mode: v["all"]["median_reduced_chi2"] for mode, v in summary["fits"].items()}
    assert chi2["both"] < chi2["embedder"]
    assert summary["redshift"] == {}
    assert "no comparison with known redshifts" in (tmp_path / "run" / "report" / "index.html").read_text()


def _assert_bands_are_aligned(store):
    """Bright objects lie at the same place in g and i: frames are shifted by up to 12 pixels, cutouts not."""
    with h5py.File(store.shards[0]) as file:
        image, weight = file["image"][:], file["weight"][:]
    is_whole = (weight > 0).all(axis=(1, 2, 3))
    middle = np.clip(image[is_whole][..., 8:24, 8:24], 0, None)
    bright = np.argsort(-middle[:, 2].sum(axis=(1, 2)))[:40]
    y, x = np.mgrid[8:24, 8:24]
    centres = np.stack([(middle[bright] * axis).sum((2, 3)) / middle[bright].sum((2, 3)) for axis in (x, y)])
    assert np.abs(np.median(centres[:, :, 1] - centres[:, :, 3], axis=1)).max() < 0.3
