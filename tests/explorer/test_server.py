"""The explorer: columns, neighbours, saving, and what a hostile page or file meets."""

import asyncio
import errno
import io
import json
import shutil
import sys
import threading
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from PIL import Image
from starlette.testclient import TestClient

import deepfits
from deepfits.errors import InputError
from deepfits.explorer.drawing import Drawer, add_seeing_and_noise
from deepfits.explorer.joined import find_parts
from deepfits.explorer.objects import unlike_warning
from deepfits.explorer.oddity import rank
from deepfits.explorer.server import make_app
from deepfits.explorer.uploads import read_dropped
from deepfits.files import write_json
from deepfits.fitting.features import DESCRIPTION
from deepfits.fitting.similarity import latent_distance
from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.redshifts.pdf import LEVELS
from deepfits.stages.explore import _bound_socket
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import StoreInfo
from deepfits.tables import write_table
from tests.helpers.drawn_run import NUM, load

SEND = {"x-deepfits": "1"}
FIRST = 2**60


@pytest.fixture
def client(loaded):
    objects, drawer = loaded
    return TestClient(make_app(objects, drawer, title="a <run>"), base_url="http://127.0.0.1")


def picture(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_a_column_may_hold_a_slash(run):
    objects, drawer = load(run)
    objects.table.add("chi2/dof?", np.arange(NUM) * 1.0)
    client = TestClient(make_app(objects, drawer, title="t"), base_url="http://127.0.0.1")
    sent = client.get("/api/column/chi2%2Fdof%3F")
    np.testing.assert_array_equal(np.frombuffer(sent.content, "<f4"), np.arange(NUM))


def test_columns_are_those_of_features_and_catalogue(client, run):
    about = client.get("/api/about").json()
    assert about["num_objects"] == NUM
    assert {"chi2", "z_spec", "reduced_chi2", "pc1", "anomaly", "g_minus_r"} <= set(about["columns"])
    answer = client.get("/api/column/z_spec")
    np.testing.assert_allclose(np.frombuffer(answer.content, "<f4"), np.arange(NUM) / 50, rtol=1e-6)
    table = pq.read_table(run / "features-both" / "shard-00000.parquet")
    sent = np.frombuffer(client.get("/api/column/chi2").content, "<f4")
    np.testing.assert_array_equal(sent, table["chi2"].to_numpy())
    status = client.get("/api/column/status")
    info = json.loads(status.headers["x-column"])
    codes = np.frombuffer(status.content, "<f4").astype(int)
    assert [info["categories"][code] for code in codes] == table["status"].to_pylist()


def test_large_identities_arrive_whole(client):
    assert client.get("/api/object/3").json()["object_id"] == str(2**60 + 3)
    assert client.get("/api/find", params={"what": str(2**60 + 5)}).json() == {"row": 5}
    assert "error" in client.get("/api/find", params={"what": "5"}).json()


def test_an_object_is_found_by_its_position(client, loaded):
    ra, dec = loaded[0].column("ra"), loaded[0].column("dec")
    place = f"{ra[7]:.6f} {dec[7] + 1 / 3600:.6f}"
    found = client.get("/api/find", params={"what": place}).json()
    assert found["row"] == 7
    assert found["separation_arcsec"] == pytest.approx(1.0, abs=0.01)
    assert "within 5″" in client.get("/api/find", params={"what": f"{ra[7]} {-dec[7] - 1}"}).json()["error"]
    assert "has no object_id NGC 1" in client.get("/api/find", params={"what": "NGC 1"}).json()["error"]


def test_neighbours_are_those_of_a_plain_search(client, loaded):
    place = loaded[0].embedding.astype(np.float64)
    assert not np.allclose(place, loaded[0].latent, atol=0.1)
    answer = client.post("/api/neighbours", json={"like": [4, 9], "number": 5}, headers=SEND).json()
    distance = np.mean([np.sqrt(((place - place[k]) ** 2).mean(1)) for k in (4, 9)], axis=0)
    distance[[4, 9]] = np.nan
    assert answer["rows"] == np.argsort(distance)[:5].tolist()
    # fewer objects than the scale asks for: 1 is the median of all others of known brightness
    expected = np.sort(distance)[:5] / np.nanmedian(distance[np.isfinite(loaded[0].brightness)])
    np.testing.assert_allclose(answer["distance"], expected, rtol=1e-4)
    assert ("hardly nearer" in answer["warning"]) == (expected[0] >= 0.8)


def test_what_is_nearer_to_an_unlike_one_is_left_out(client, loaded):
    place = loaded[0].embedding.astype(np.float64)
    apart = [np.sqrt(((place - place[row]) ** 2).mean(1)) for row in (4, 9, 20)]
    asked = {"like": [4], "unlike": [9, 20], "number": NUM}
    answer = client.post("/api/neighbours", json=asked, headers=SEND).json()
    expected = np.flatnonzero((apart[0] < apart[1]) & (apart[0] < apart[2]) & (apart[0] > 0))
    assert 0 < len(expected) < NUM - 3
    assert answer["rows"] == expected[np.argsort(apart[0][expected])].tolist()
    filtered = client.post("/api/neighbours", json={**asked, "where": ["z_spec <= 0.4"]}, headers=SEND).json()
    assert filtered["rows"] == [row for row in answer["rows"] if row <= 20]


def test_neighbours_at_the_same_brightness_are_as_bright(client, loaded):
    magnitude = loaded[0].brightness
    known = np.flatnonzero(np.isfinite(magnitude))
    apart = np.abs(magnitude[known, None] - magnitude[known])
    row = int(known[np.argmin(np.sort(apart, axis=1)[:, 3])])
    window = float(np.sort(apart[np.flatnonzero(known == row)[0]])[3]) * 1.01
    asked = {"like": [row], "number": 30, "magnitude_window": window}
    rows = client.post("/api/neighbours", json=asked, headers=SEND).json()["rows"]
    assert len(rows) >= 3
    assert (np.abs(magnitude[rows] - magnitude[row]) <= window).all()


def test_two_requests_for_neighbours_at_once_are_both_answered(run, loaded, monkeypatch):
    objects, _ = load(run)
    answers, einsum = [], np.einsum

    def while_the_first_prepares(*given):
        thread.start()
        thread.join(timeout=0.5)
        monkeypatch.undo()
        return einsum(*given)

    thread = threading.Thread(target=lambda: answers.append(objects.neighbours([3], number=5)))
    monkeypatch.setattr(np, "einsum", while_the_first_prepares)
    answers.append(objects.neighbours([3], number=5))
    thread.join()
    expected = loaded[0].neighbours([3], number=5)
    assert len(answers) == 2
    for rows, distance in answers:
        np.testing.assert_array_equal(rows, expected[0])
        np.testing.assert_array_equal(distance, expected[1])


def test_principal_components_are_those_of_numpy(loaded):
    objects = loaded[0]
    centred = objects.latent - objects.latent.mean(0)
    expected = np.linalg.svd(centred.astype(np.float64))[1] ** 2 / NUM
    np.testing.assert_allclose(objects.principal[2].var(axis=0), expected[:8], rtol=1e-3)


def test_pictures_show_the_object(client, loaded):
    objects, drawer = loaded
    panels = picture(client.get("/api/panels/7.png"))
    assert panels.shape == (3 * (4 * 18 - 2), 3 * (4 * 18 - 2), 3)
    missing = panels[3 * 18 : 3 * 34, : 3 * 16].reshape(-1, 3)
    assert (missing == missing[0]).all(), "the missing band is shown as missing"
    r_band = panels[3 * 36 : 3 * 52, : 3 * 16 : 3][::3, :, 0].astype(float)[::-1]  # row 0 is below
    observed = drawer.store.take(np.array([7])).image[0, 1]
    in_order = r_band.ravel()[np.argsort(observed.ravel())]
    assert (np.diff(in_order) >= 0).all(), "brighter pixels are shown brighter, each at its place"
    assert len(np.unique(in_order)) > 20
    np.testing.assert_allclose(
        latent_distance(objects.latent)[7], objects.column("latent_distance")[7], rtol=1e-5
    )
    strip = picture(client.get("/api/strip.png", params={"rows": "1,2,3", "columns": 3}))
    assert strip.shape == (32, 96, 3)
    assert not (strip[:, :32] == strip[:, 32:64]).all()


def test_walks_change_what_is_drawn_and_start_where_they_should(client):
    still = picture(client.get("/api/walk.png", params={"row": 2, "offsets": "0,0"}))
    moved = picture(client.get("/api/walk.png", params={"row": 2, "offsets": "2,0"}))
    blurred = picture(client.get("/api/walk.png", params={"row": 2, "offsets": "0,0", "fwhm": "1.5"}))
    between = picture(client.get("/api/between.png", params={"first": 2, "second": 3}))
    assert not np.array_equal(still, moved)
    assert not np.array_equal(still, blurred)
    # The same drawing in another batch: the same but for a last bit that may round the other way.
    np.testing.assert_allclose(between[: 2 * 16 : 2, : 2 * 16 : 2].astype(int), still[::6, ::6], atol=1)


def test_seeing_keeps_the_flux_and_noise_is_of_the_size_asked_for():
    point = np.zeros((1, 2, 41, 41))
    point[0, :, 20, 20] = 100.0
    rng = np.random.default_rng(1)
    blurred = add_seeing_and_noise(point, fwhm_pixels=5.0, noise=np.zeros(2), rng=rng)[0, 0]
    assert blurred.sum() == pytest.approx(100, rel=1e-3)
    assert (blurred[20] > blurred[20].max() / 2).sum() == 5
    noisy = add_seeing_and_noise(
        np.zeros((1, 2, 200, 200)), fwhm_pixels=0.0, noise=np.array([1.0, 3.0]), rng=rng
    )
    # The error of a standard deviation from 40,000 draws is 0.35%.
    np.testing.assert_allclose(noisy.std(axis=(0, 2, 3)), [1.0, 3.0], rtol=0.02)


@pytest.mark.parametrize("kind", ["csv", "parquet", "fits", "votable", "ids"])
def test_a_saved_selection_holds_just_what_was_selected(client, kind, loaded, tmp_path):
    client.post("/api/tag", json={"rows": [5], "tag": "keep"}, headers=SEND)
    answer = client.post("/api/save", json={"rows": [5, 2], "format": kind}, headers=SEND)
    client.post("/api/tag", json={"rows": [5], "tag": None}, headers=SEND)
    assert answer.status_code == 200
    wanted = [2**60 + 5, 2**60 + 2]
    if kind == "ids":
        assert [int(line) for line in answer.text.split()] == wanted
        return
    path = tmp_path / f"selection.{ {'votable': 'vot'}.get(kind, kind) }"
    path.write_bytes(answer.content)
    if kind == "parquet":
        table = pq.read_table(path).to_pydict()
    else:
        table = Table.read(path, format={"csv": "ascii.csv"}.get(kind, kind))
    assert [int(one) for one in table["object_id"]] == wanted
    np.testing.assert_allclose(np.asarray(table["z_spec"], float), [0.1, 0.04])
    assert str(table["tag"][0]) == "keep"


def test_tags_lie_beside_the_features(client, run):
    client.post("/api/tag", json={"rows": [1, 3], "tag": "discard"}, headers=SEND)
    again = load(run)[0]
    assert again.column("tag").tolist() == ["", "discard", "", "discard", *[""] * (NUM - 4)]
    client.post("/api/tag", json={"rows": [1, 3], "tag": None}, headers=SEND)
    assert not load(run)[0].tags
    for tag in ("x", 5):
        assert "error" in client.post("/api/tag", json={"rows": [1], "tag": tag}, headers=SEND).json()


def test_tags_of_two_explorers_are_kept(run):
    first, second = (load(run)[0] for _ in range(2))
    first.tag([1], "keep")
    second.tag([2], "discard")
    assert load(run)[0].tags == {str(FIRST + 1): "keep", str(FIRST + 2): "discard"}
    second.tag([1, 2], None)
    assert not load(run)[0].tags


@pytest.mark.parametrize("place", ["features-both", "cutouts"])
def test_what_is_not_finished_is_shown_only_when_it_is_asked_for(run, tmp_path, place):
    shutil.copytree(run, tmp_path / "run")
    lines = [json.dumps({"shard": "shard-00000", "state": state}) for state in ("done", "missing")]
    (tmp_path / "run" / place / "_manifest.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=rf"{place}: is not finished \(1 of 2 shards are done\)"):
        load(tmp_path / "run")
    assert len(load(tmp_path / "run", partial=True)[0]) == NUM


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x80\x04N."])
def test_a_damaged_map_is_named(run, tmp_path, content):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "features-both" / "_map-umap.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"_map-umap\.npz: damaged map"):
        load(tmp_path / "run")


def test_a_map_of_earlier_features_is_not_shown(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    flat = SimpleNamespace(fit_transform=lambda embedding: embedding[:, :2])
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=lambda **options: flat))
    load(tmp_path / "run")[0].make_umap()
    assert "umap1" in load(tmp_path / "run")[0].names
    path = tmp_path / "run" / "features-both" / "shard-00000.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("embedding")
    refitted = table["embedding"].combine_chunks().take(np.arange(NUM)[::-1])
    pq.write_table(table.set_column(place, table.schema.field(place), refitted), path)
    assert "umap1" not in load(tmp_path / "run")[0].names


def test_an_address_that_cannot_be_served_says_which_part_to_change():
    with _bound_socket("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(InputError, match="another with --port"):
            _bound_socket("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InputError, match="another with --host"):  # TEST-NET-1: no machine has it
        _bound_socket("192.0.2.1", 0)


def test_a_run_that_is_only_read_says_so(client, monkeypatch):
    error = PermissionError(errno.EACCES, "Permission denied", "features-both/_tags.json")
    monkeypatch.setattr("deepfits.explorer.objects.write_tags", Mock(side_effect=error))
    answer = client.post("/api/tag", json={"rows": [1], "tag": "keep"}, headers=SEND)
    assert answer.status_code == 400
    assert "features-both/_tags.json: Permission denied" in answer.json()["error"]
    assert client.get("/api/object/1").json()["tag"] is None


def test_another_catalogue_is_matched_by_position(client, run):
    text = "ra,dec,mine\n150.02,2.0,7\n150.0301,2.0,8\n10,10,9\n,,1\n"
    answer = client.post("/api/overlay?name=mine.csv&radius=1", content=text, headers=SEND).json()
    assert answer["rows"] == [2, 3]
    assert answer["matched"] == 2
    assert (answer["total"], answer["num_unmatched"], answer["unmatched"]) == (4, 1, [[10.0, 10.0]])
    assert client.get("/api/unmatched").text.split() == ["mine,ra,dec", "9,10.0,10.0"]
    column = np.frombuffer(client.get("/api/column/mine.mine").content, "<f4")
    assert column[2] == 7
    assert column[3] == 8
    assert np.isnan(column[4])
    assert "error" in client.post("/api/overlay?name=x.csv", content="a,b\n1,2\n", headers=SEND).json()
    text = "ra,dec,n_minus_s\n150.02,2.0,1\n"
    wide = client.post("/api/overlay?name=one.csv&radius=60", content=text, headers=SEND)
    assert wide.json()["rows"] == [2], "a row is of one object, however many lie within the radius"
    assert client.get("/api/about").json()["words"]["one.n_minus_s"] == "from one"


@pytest.mark.parametrize("form", ["npy", "npz", "fits"])
def test_a_dropped_cutout_is_fitted_and_its_missing_band_filled_in(client, loaded, form):
    cutout = loaded[1].store.take(np.array([11])).image[0].copy()
    cutout[0] = np.nan
    buffer = io.BytesIO()
    if form == "npy":
        np.save(buffer, cutout)
    elif form == "npz":
        np.savez(buffer, image=cutout, weight=np.where(np.isfinite(cutout), 1.0, 0.0))
    else:
        fits.PrimaryHDU(cutout).writeto(buffer)
    answer = client.post(f"/api/upload?name=x.{form}", content=buffer.getvalue(), headers=SEND).json()
    if form == "npz":  # with its weight; elsewhere the noise is measured at the edges, which hold light here
        assert 0.3 < answer["reduced_chi2"] < 3
    assert answer["missing"] == ["g"]
    flux, error = answer["fluxes"]["g"]
    assert np.isfinite(flux)
    assert flux != 0
    assert error > 0
    assert 11 in answer["rows"][:3], "the object itself is among the nearest"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "x.npy",
            b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
            + b" " * 60
            + b"\n",
        ),
        ("x.npy", b"nothing"),
        ("x.fits", b"SIMPLE  =                    T"),
        ("x.exe", b"MZ"),
        ("../../etc/passwd", b"x"),
        ("x.npy", b""),
    ],
)
def test_malformed_uploads_get_a_message(client, name, content):
    answer = client.post("/api/upload", params={"name": name}, content=content, headers=SEND)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_an_upload_of_another_shape_names_the_shape_it_needs(client):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((5, 16, 16)))
    answer = client.post("/api/upload?name=x.npy", content=buffer.getvalue(), headers=SEND)
    assert "(3, 16, 16)" in answer.json()["error"]


def test_foreign_pages_and_hosts_are_refused(client, loaded):
    assert client.get("/api/about", headers={"host": "evil.example"}).status_code == 400
    assert client.post("/api/tag", json={"rows": [1], "tag": "keep"}).status_code == 403
    assert client.post("/api/save", json={"rows": list(range(3))}).status_code == 403
    large = client.post("/api/upload?name=x.npy", content=b"x" * (17 << 20), headers=SEND)
    assert large.status_code == 400
    for path in ("/static/../objects.py", "/static/%2e%2e/objects.py", "/etc/passwd", "/api/column/..%2Fx"):
        assert client.get(path).status_code in (400, 404)
    for row in (-1, NUM, 10**9):
        assert client.get(f"/api/object/{row}").status_code in (400, 404)
    for body in (b"[]", b"{", b'{"like": [1.5]}', b'{"like": ["a"]}', b'{"like": []}', b"{}"):
        answer = client.post("/api/neighbours", content=body, headers=SEND)
        assert answer.status_code == 400, body


def test_a_token_is_asked_for(loaded):
    app = make_app(*loaded, title="x", token="secret")
    client = TestClient(app, base_url="http://192.0.2.1")
    assert client.get("/api/about").status_code == 403
    assert client.get("/?token=wrong").status_code == 403
    assert client.get("/?token=secret").status_code == 200
    assert client.get("/api/about").json()["num_objects"] == NUM


def test_pictures_wait_for_the_model_and_the_map_does_not(loaded):
    on_its_way = Future()
    with TestClient(make_app(loaded[0], on_its_way, title="x"), base_url="http://127.0.0.1") as client:
        assert client.get("/api/about").json()["has_pictures"]
        assert client.get("/api/column/pc1").status_code == 200
        threading.Timer(0.2, on_its_way.set_result, [loaded[1]]).start()
        told = client.get("/api/drawer").json()
        assert on_its_way.done()
        assert told["has_model"]
        assert not told["has_images"]
        assert picture(client.get("/api/panels/3.png")).std() > 0


def test_a_request_that_is_given_up_leaves_the_model_to_the_others(loaded):
    on_its_way = Future()
    app = make_app(loaded[0], on_its_way, title="x")
    scope = {"type": "http", "method": "GET", "path": "/api/drawer", "query_string": b""}
    scope |= {"http_version": "1.1", "headers": [(b"host", b"127.0.0.1")]}
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(app(scope, None, None), 0.1))
    on_its_way.set_result(loaded[1])
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/api/drawer").json()["has_model"]


def test_a_wrong_model_ends_the_explorer(run, tmp_path):
    torch.manual_seed(9)
    right = Model.load(run / "model")
    Model.make(right.config, right.info, right.normalisation).save(tmp_path / "other")
    with pytest.raises(InputError, match="is not the model"):
        deepfits.explore(run, model=tmp_path / "other", port=0, open_browser=False)


def test_what_is_not_there_is_named(tmp_path, run):
    with pytest.raises(InputError, match="no features there; make them with"):
        find_parts(tmp_path, None, None)
    shutil.copytree(run / "features-both", tmp_path / "mine")  # under a name of its own
    with pytest.raises(InputError, match=r"no features there; give .*mine$"):
        find_parts(tmp_path, None, None)
    for path in [*tmp_path.glob("mine/shard-*"), tmp_path / "mine" / DESCRIPTION]:
        path.unlink()
    with pytest.raises(InputError, match=r"the fit in .*mine has not made any yet: run it again"):
        find_parts(tmp_path, None, None)
    parts = find_parts(run / "features-both", None, None)
    assert parts.features == run / "features-both"
    assert parts.store == run / "cutouts"
    torch.manual_seed(9)
    model = Model.load(parts.model)
    Model.make(model.config, model.info, model.normalisation).save(tmp_path / "other")
    with pytest.raises(InputError, match="is not the model"):
        load(run, model=tmp_path / "other")


def test_distributions_are_those_of_the_method_that_did_best_where_it_could_be_judged(tmp_path):
    from deepfits.explorer.redshifts import Distributions

    names = {"a": 0.1, "b": 0.05}
    rows = [
        {
            "key": key,
            "method": key,
            "features": "latents",
            "pdf_metrics": {},
            "left_out": {"sigma_mad": value},
        }
        for key, value in names.items()
    ]
    rows.insert(0, {"key": "c", "method": "c", "features": ""})
    write_json(tmp_path / "metrics.json", {"target": "z_spec", "rows": rows})
    identity = np.array([5, 7])
    write_table(
        tmp_path / "predictions.parquet", {"object_id": identity[::-1], "z_spec": np.array([0.7, 0.5])}
    )
    quantiles = np.stack([0.5 + 0.1 * LEVELS, 0.7 + 0.2 * LEVELS]).astype(np.float32)
    for shift, key in enumerate(names):
        columns = {"object_id": identity, "z_phot": identity / 10, "quantiles": quantiles + 2 - 2 * shift}
        write_table(tmp_path / "methods" / key / "predictions.parquet", columns)
    known = Distributions.read(tmp_path)
    told = known.of(7)
    assert told["method"] == "b on latents"
    assert told["z_spec"] == 0.7
    # uniform between 0.7 and 0.9: a density of 5 everywhere
    np.testing.assert_allclose(told["density"], 5, rtol=1e-3)
    np.testing.assert_allclose(told["edges"], quantiles[1], rtol=1e-5)
    assert known.of(6) is None


def test_predictions_of_a_run_are_found_joined_and_shown(run, tmp_path, caplog):
    whole = tmp_path / "run"
    shutil.copytree(run, whole)
    quantiles = np.array(LEVELS, dtype=np.float32) + np.arange(NUM)[:, None]
    columns = {"object_id": FIRST + np.arange(NUM), "z_phot": np.arange(NUM) + 0.5, "quantiles": quantiles}
    few = {name: values[:3] for name, values in columns.items()}
    write_table(whole / "z.parquet", few)
    assert "z_phot" not in load(whole)[0].names, "of a table without a record nobody knows what it is"
    write_json(whole / "z.parquet.made_from.json", {"stage": "redshift predict", "finished": True})
    client = TestClient(make_app(*load(whole), title="t"), base_url="http://127.0.0.1")
    found = np.frombuffer(client.get("/api/column/z_phot").content, "<f4")
    np.testing.assert_allclose(found[:3], [0.5, 1.5, 2.5])
    assert np.isnan(found[3:]).all()
    told = client.get("/api/object/2").json()["redshift"]
    assert told["method"] == "z.parquet"
    np.testing.assert_allclose([told["low"], told["high"]], [2.16, 2.84], atol=1e-6)
    unknown = client.get("/api/object/7").json()
    assert unknown["redshift"] is None
    assert "not among those of z.parquet (3 objects)" in unknown["why"]
    assert client.get("/api/about").json()["words"]["z_phot"].endswith("from z")
    # of two, the one that has seen spectra counts
    for name, model in (("a", "head.json"), ("z", "predictor.json")):
        write_table(whole / f"{name}.parquet", {**few, "z_phot": few["z_phot"] + (name == "a")})
        record = {"stage": "redshift predict", "finished": True, "inputs": {"model": {model: "1"}}}
        write_json(whole / f"{name}.parquet.made_from.json", record)
    with caplog.at_level("INFO", logger="deepfits"):
        objects = load(whole)[0]
    assert (objects.column("z_phot")[2], objects.column("a.z_phot")[2]) == (2.5, 3.5)
    assert objects.redshift(2)[0]["method"] == "z.parquet"
    assert "z_phot is that of z; the others are a.z_phot" in caplog.text
    # what is named comes before what was found
    elsewhere = {**columns, "z_phot": np.arange(NUM) + 0.25}
    write_table(tmp_path / "mine.parquet", elsewhere)
    objects = load(whole, predictions=[tmp_path / "mine.parquet"])[0]
    assert objects.redshift(7)[0]["method"] == "mine.parquet"
    assert objects.column("mine.z_phot")[7] == 7.25
    # CSV has a column for each quantile
    write_table(tmp_path / "flat.csv", elsewhere)
    told = load(whole, predictions=[tmp_path / "flat.csv"])[0].redshift(7)[0]
    assert told["method"] == "flat.csv"
    np.testing.assert_allclose(told["edges"], quantiles[7], rtol=1e-6)


def test_nothing_alike_is_said(loaded):
    objects = loaded[0]
    far = np.full((1, objects.latent.shape[1]), 30.0, dtype=np.float32)
    distance = objects.neighbours(far)[1]
    assert distance[0] > 0.8
    assert f"the nearest, at {distance[0]:.2f}" in unlike_warning(distance)
    assert unlike_warning(np.array([0.5])) == ""


def test_the_oddest_are_ranked_among_those_asked_for_whose_middle_was_observed(loaded, client, monkeypatch):
    objects = loaded[0]
    monkeypatch.setitem(objects.table._read, "anomaly_reason", np.full(NUM, "structure in all bands"))
    every = client.get("/api/odd").json()["objects"]
    score = objects.column("anomaly")
    ranked = np.argsort(-score, kind="stable")
    assert [one["row"] for one in every] == ranked[score[ranked] > 0].tolist()
    assert 0 < len(every) < NUM, "most galaxies are ordinary, and have no reason to be odd"
    few = client.get("/api/odd", params={"where": ["z_spec <= 0.2", "z_spec >= 0.1"], "number": 4}).json()
    expected = [one["row"] for one in every if 5 <= one["row"] <= 10][:4]
    assert [one["row"] for one in few["objects"]] == expected
    blinded = every[0]["row"]
    take = objects.store.take

    def without_middle(rows):
        cutouts = take(rows)
        cutouts.weight[np.asarray(rows) == objects.store_row[blinded], 1, 7:9, 7:9] = 0
        return cutouts

    monkeypatch.setattr(objects.store, "take", without_middle)
    told = client.get("/api/odd").json()
    assert told["objects"] == every[1:]
    assert told["left_out"] == "1 saturated or not observed in the centre"
    assert client.get("/api/odd?everything=1").json()["objects"] == every


def test_stars_flagged_objects_and_artefacts_do_not_lead_the_odd_ones(run):
    objects = load(run)[0]
    score = np.arange(NUM) * 1.0
    reason = np.where(np.arange(NUM) == 37, "PSF of r: residual around the centre", "rarely generated")
    for name, values in {
        "anomaly": score,
        "flags": np.where(score == 39, 4, 0),
        "star_score": np.where(score == 38, 0.9, 0.1),
        "anomaly_reason": reason,
        "r_minus_i": np.where(score == 36, 9.0, np.sin(score)),
        **{f"flux_model_{band}": np.full(NUM, 50.0) for band in "ri"},  # bright enough for a colour
        **{f"flux_model_err_{band}": np.ones(NUM) for band in "ri"},
    }.items():
        objects.table.add(name, values)
    everyone = np.ones(NUM, dtype=bool)
    found = rank(objects, 3, everyone)
    assert found.rows.tolist() == [36, 35, 34]
    assert found.left_out == "1 flagged, 1 stars, 1 artefacts"
    assert found.why[0].startswith("rarely generated: redder in r − i than all")
    assert rank(objects, 3, everyone, everything=True).rows.tolist() == [39, 38, 37]
    # Bit 16: no data in a band, so neither in its aperture (32); 4 beside them is a flag, and so is 32 alone.
    for flag, is_left_out in ((1 << 16, False), ((1 << 16) + 32, False), ((1 << 16) + 36, True), (32, True)):
        objects.table.add("flags", np.where(score == 36, flag, 0))
        assert (36 not in rank(objects, 3, everyone).rows) == is_left_out
    objects.table.add("flags", np.full(NUM, 4))  # a survey that flags everything says nothing by it
    assert rank(objects, 1, everyone).rows.tolist() == [39]


def test_a_scene_lies_on_the_pixels_of_its_cutout():
    torch.manual_seed(1)
    info = StoreInfo(bands=("g", "r"), size=16, pixel_scale_arcsec=0.2)
    config = ModelConfig(num_bands=2, size=16, latent_size=4, width=16, num_blocks=2)
    units = Normalisation(kind="asinh", mean=(0.0, 0.0), std=(1.0, 1.0), softening=(1.0, 1.0))
    model = Model.make(config, info, units, reference_fwhm_arcsec=0.5).eval()
    features = {"latent": torch.randn(1, 4).numpy(), "amplitude_r": np.array([3.0])}
    store = SimpleNamespace(info=replace(info, size=8, pixel_scale_arcsec=0.4, fwhm_arcsec=()))
    drawer = Drawer.__new__(Drawer)
    drawer.model, drawer.store, drawer._lock = model, store, threading.Lock()
    drawer.objects = SimpleNamespace(table=features)
    scene, whole = drawer.scene(0), model.draw(features)[0]
    assert scene.shape == (2, 8, 8)
    # pixels of twice the side hold four times the flux of the one in their middle
    np.testing.assert_allclose(scene, 4 * whole[:, 0::2, 0::2], rtol=1e-5)


def test_endings_of_uploads_may_be_capitals():
    content = io.BytesIO()
    np.save(content, np.zeros((3, 16, 16)))
    assert read_dropped("CUT.NPY", content.getvalue())[0].shape == (3, 16, 16)
