"""Conditions on the catalogue's columns: the same choice in every stage, and part of what a result is."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from deepfits.errors import InputError
from deepfits.stages.cutouts import cutouts
from deepfits.stages.fit import fit
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo, create_store, shard_name, write_shard
from deepfits.tables import as_conditions, choose, match_identities, take_rows
from deepfits.training.data import measure_training_set
from tests.helpers.drawn_run import make_run

INFO = StoreInfo(bands=("g", "r"), size=8, pixel_scale_arcsec=0.3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two shards of 30 objects; every third one is flagged, and says so in its pixels."""
    directory = create_store(tmp_path_factory.mktemp("store") / "cutouts", INFO)
    rng = np.random.default_rng(1)
    for number in range(2):
        object_id = np.arange(30) + 30 * number
        flags = (object_id % 3 == 0).astype(int)
        image = rng.normal(size=(30, 2, 8, 8)).astype(np.float32) + 100 * flags[:, None, None, None]
        shard = Cutouts(
            object_id=object_id,
            image=image.astype(np.float32),
            weight=np.ones_like(image, dtype=np.float32),
            catalogue={"flags": flags, "mag": 20 + object_id / 10},
        )
        write_shard(directory / shard_name(number), shard, INFO)
    return directory


def test_conditions_may_be_joined():
    assert as_conditions("flags == 0 AND mag<22 && kind == galaxy") == (
        "flags == 0",
        "mag < 22",
        "kind == galaxy",
    )
    assert as_conditions(["name == 'salt and pepper'"]) == ("name == 'salt and pepper'",)
    assert as_conditions("name == salt and not is_hot") == ("name == salt", "is_hot != true")
    columns = {"a": np.array([1, 2, 3]), "b": np.array([0.0, np.nan, 1.0])}
    assert choose(columns, "a > 1 and b >= 0", "x")["a"].tolist() == [3]
    with pytest.raises(InputError, match="none of 3 objects satisfies a > 9"):
        choose(columns, "a > 9", "x")


def test_identities_match_as_numbers_and_as_text():
    assert match_identities(np.array(["5", "1"]), np.array([1, 5, 5])).tolist() == [1, 0]
    assert take_rows(np.array(["a", "b"]), np.array([1, -1])).tolist() == ["b", ""]
    assert take_rows(np.eye(2), np.array([-1, 0]))[1].tolist() == [1, 0]


def test_a_store_shows_what_satisfies_the_conditions_alone(store):
    whole, some = CutoutStore(store), CutoutStore(store, where="flags == 0 and mag > 22")
    wanted = [n for n in range(21, 60) if n % 3]
    assert len(whole) == 60
    assert len(some) == len(wanted)
    assert some.catalogue(["mag"])["object_id"].tolist() == wanted
    assert [one for part in some for one in part.object_id.tolist()] == wanted
    taken = some.take(np.array([20, 3]))
    assert taken.object_id.tolist() == [wanted[20], wanted[3]]
    np.testing.assert_array_equal(taken.image[1], whole.take(np.array([wanted[3]])).image[0])
    assert (
        measure_training_set(some).normalisation.mean[0]
        < 1
        < measure_training_set(whole).normalisation.mean[0]
    )
    with pytest.raises(InputError, match="no object satisfies"):
        CutoutStore(store, where="mag > 99")
    with pytest.raises(InputError, match=r"'flag'.*'flags'"):
        CutoutStore(store, skip_bad=True, where="flag == 0")


def test_a_fit_with_other_conditions_is_another_result(tmp_path):
    run = make_run(tmp_path)
    common = (run / "cutouts", run / "model", run / "bright")
    fit(*common, mode="embedder", where="z_spec < 0.5", threads=1)
    found = pq.read_table(run / "bright" / "shard-00000.parquet")["object_id"].to_numpy() - 2**60
    assert found.tolist() == list(range(25))
    settings = json.loads((run / "bright" / "_made_from.json").read_text())["settings"]
    assert settings["where"] == ["z_spec < 0.5"]
    fit(*common, mode="embedder", where=["z_spec < 0.5"], threads=1)
    with pytest.raises(InputError, match="where"):
        fit(*common, mode="embedder", where="z_spec < 0.6", threads=1)
    with pytest.raises(InputError, match="where"):
        fit(*common, mode="embedder", threads=1)


def test_only_what_satisfies_the_conditions_is_cut(tmp_path):
    sky = tmp_path / "sky"
    sky.mkdir()
    rng = np.random.default_rng(2)
    for band in "gr":
        header = fits.Header({"FILTER": band, "MAGZERO": 27.0})
        fits.writeto(sky / f"{band}.fits", rng.normal(size=(64, 64)).astype(np.float32), header)
        fits.writeto(sky / f"{band}.weight.fits", np.ones((64, 64), np.float32), header)
    table = tmp_path / "mine.csv"
    table.write_text("object_id,x,y,flags\n" + "".join(f"{n},{5 + 5 * n},30,{n % 2}\n" for n in range(10)))
    given = {"catalogue": table, "size": 8, "assume_aligned": True, "pixel_scale": 0.2}
    cutouts(sky, tmp_path / "store", where="flags == 0", **given)
    assert CutoutStore(tmp_path / "store").catalogue(["x"])["x"].tolist() == [5, 15, 25, 35, 45]
    with pytest.raises(InputError, match="where"):
        cutouts(sky, tmp_path / "store", **given)


@pytest.mark.parametrize(
    ("images", "option", "said"),
    [
        ("c.toml", {"zero_point": 25.0}, r"zero_point=25.0 has no effect on cutouts made elsewhere.*c\.toml"),
        ("c.toml", {"bands": ["g"]}, "bands"),
        (
            "sky",
            {"catalogue": "mine.csv", "min_snr": 5.0},
            "min_snr=5.0 has no effect with a catalogue.*where",
        ),
        ("sky", {"catalogue": "mine.csv", "threshold": 2.0}, "threshold"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, monkeypatch, images, option, said):
    monkeypatch.chdir(tmp_path)
    np.savez("c.npz", image=np.ones((3, 1, 8, 8), np.float32))
    Path("c.toml").write_text('file = "c.npz"\nbands = ["r"]\nzero_point = 31.4\npixel_scale_arcsec = 0.2\n')
    with pytest.raises(InputError, match=said):
        cutouts(images, "store", size=8, **option)
    assert not Path("store").exists()


def test_foreign_cutouts_are_chosen_too(tmp_path):
    image = np.arange(10, dtype=np.float32)[:, None, None, None] + np.ones((10, 1, 8, 8), np.float32)
    np.savez(tmp_path / "cutouts.npz", image=image)
    (tmp_path / "mine.csv").write_text(
        "object_id,ra,dec,flags\n" + "".join(f"{n + 70},{n},1,{int(n in (2, 3, 7))}\n" for n in range(10))
    )
    (tmp_path / "cutouts.toml").write_text(
        'file = "cutouts.npz"\nbands = ["r"]\nzero_point = 31.4\npixel_scale_arcsec = 0.2\n'
    )
    cutouts(
        tmp_path / "cutouts.toml",
        tmp_path / "store",
        catalogue=tmp_path / "mine.csv",
        size=8,
        where="flags == 1",
    )
    found = CutoutStore(tmp_path / "store").read_shard(0)
    assert found.object_id.tolist() == [72, 73, 77]
    np.testing.assert_allclose(found.image[:, 0, 4, 4], [3, 4, 8], rtol=1e-5)
