"""Positions on the images that a run came from: cut out, and fitted as the run did it."""

import shutil

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from deepfits.errors import InputError
from deepfits.explorer.coadds import Coadds, read_place
from deepfits.explorer.server import make_app
from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.stages.cutouts import cutouts
from deepfits.stages.fit import fit
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import CutoutStore, StoreInfo
from tests.helpers.drawn_run import load
from tests.helpers.gaussian_sky import SCALE, make_truth, write_plain

SHAPE, BANDS = (150, 140), "gri"
SEND = {"x-deepfits": "1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Make a run of a field, half of which lacks r."""
    out = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(15)
    truth = make_truth(rng, 40, SHAPE, margin=4, bands=BANDS)
    bad = [("r", (slice(0, 70), slice(0, 140)))]
    write_plain(out / "sky" / "field", truth, SHAPE, rng=rng, bands=BANDS, bad=bad)
    torch.manual_seed(3)
    info = StoreInfo(bands=tuple(BANDS), size=16, pixel_scale_arcsec=SCALE)
    config = ModelConfig(num_bands=3, size=16, latent_size=8, width=16, num_blocks=2)
    units = Normalisation(kind="asinh", mean=(0.0,) * 3, std=(1.0,) * 3, softening=(1.0,) * 3)
    Model.make(config, info, units).save(out / "model")
    fit(
        cutouts(out / "sky", out / "cutouts", size=16),
        out / "model",
        out / "features-both",
        num_steps=3,
        threads=1,
    )
    return out


def test_a_position_is_fitted_as_the_run_fitted_what_lies_there(run):
    objects, drawer = load(run)
    assert (objects.column("dof_r") == 0).any()
    for row in (3, int(np.flatnonzero(objects.column("dof_r") == 0)[0]), len(objects) - 2):
        found = drawer.fit_position(*objects.place(row))
        # alone, not in a batch
        np.testing.assert_allclose(found.features["latent"][0], objects.latent[row], atol=2e-5)
        for band in BANDS:
            flux, error = (found.features[f"flux_model{end}_{band}"][0] for end in ("", "_err"))
            assert flux == pytest.approx(objects.column(f"flux_model_{band}")[row], rel=1e-4)
            assert error == pytest.approx(objects.column(f"flux_model_err_{band}")[row], rel=1e-3)
        assert found.missing == (("r",) if objects.column("dof_r")[row] == 0 else ())
        reduced = found.features["chi2"][0] / found.features["dof"][0]
        assert reduced == pytest.approx(objects.column("reduced_chi2")[row], rel=1e-4)


@pytest.mark.parametrize("bands", ["riz", "ugriz"])
def test_cutouts_are_in_the_bands_of_the_model(run, bands):
    store = CutoutStore(run / "cutouts").in_bands(bands)
    objects = load(run)[0]
    for row in (3, 8):
        cut, known = Coadds(run / "sky", store).cut(*objects.place(row)), store.take([row])
        for name in ("image", "weight", "psf"):
            np.testing.assert_allclose(getattr(cut, name), getattr(known, name), rtol=1e-6)


def test_the_page_asks_for_positions_as_people_write_them(run):
    objects, drawer = load(run)
    client = TestClient(make_app(objects, drawer, title="x"), base_url="http://127.0.0.1")
    ra, dec = objects.place(3)
    answer = client.post("/api/position", json={"place": f"{ra:.7f}, {dec:.7f}"}, headers=SEND).json()
    assert answer["rows"][0] == 3, "the nearest in the latent is the object itself"
    assert answer["distance"][0] < 0.02, "float32, from scalar products; to the next one it is 0.1"
    for place, said in (
        ("1 2", "lies on none of the images"),
        ("somewhere", "is not a position"),
        ("1 99", ""),
    ):
        refused = client.post("/api/position", json={"place": place}, headers=SEND)
        assert refused.status_code == 400
        assert said in refused.json()["error"]


@pytest.mark.parametrize(
    "text",
    [
        "150.1 2.25", "10:00:24 +02:15:00", "10h00m24s +2d15m0s", "10 00 24 2 15 0", "(150.1, 2.25)",
        "10:00:24+02:15:00", "10h00m24s+2d15m0s", "SDSS J100024.00+021500.0", "WISEA J100024+021500",
    ],
)  # fmt: skip
def test_places(text):
    np.testing.assert_allclose(read_place(text), (150.1, 2.25), rtol=1e-9)


def test_other_images_are_refused(run, tmp_path):
    shutil.copytree(run / "sky", tmp_path / "sky")
    moved = load(run, images=tmp_path / "sky")
    assert np.isfinite(moved[1].fit_position(*moved[0].place(3)).features["latent"]).all(), (
        "the same ones elsewhere serve"
    )
    several = load(run, images=[str(run / "sky")])[1]
    with pytest.raises(InputError, match=f"lies on none of the images of {run / 'sky'}$"):
        several.fit_position(1, 2)
    with (tmp_path / "sky" / "field" / "coadd-g.fits").open("r+b") as file:
        file.seek(-9, 2)
        file.write(b"x")
    objects, drawer = load(run, images=tmp_path / "sky")
    with pytest.raises(InputError, match=r"not the images that .* was cut from \(field/g/0"):
        drawer.fit_position(*objects.place(3))
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("sky"))
    objects, drawer = load(tmp_path / "run")
    with pytest.raises(InputError, match="start with --images"):
        drawer.fit_position(*objects.place(3))
