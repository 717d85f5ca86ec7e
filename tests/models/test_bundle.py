"""Models on disk: round trips, and errors for invalid files."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deepfits.errors import InputError
from deepfits.files import fingerprint
from deepfits.models.bundle import Model
from deepfits.models.card import describe
from deepfits.models.layers import ModelConfig
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import StoreInfo

INFO = StoreInfo(bands=("u", "g", "r"), size=16, pixel_scale_arcsec=0.168, fwhm_arcsec=(0.9, 0.8, 0.7))
NORMALISATION = Normalisation(
    kind="asinh", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), softening=(3.0, 2.0, 1.0)
)


@pytest.fixture
def model():
    torch.manual_seed(1)
    config = ModelConfig(num_bands=3, size=16, latent_size=5, width=16, num_blocks=2, num_groups=2)
    return Model.make(config, INFO, NORMALISATION).eval()


@pytest.fixture
def saved(model, tmp_path):
    return model.save(tmp_path / "model")


def edit(directory, **changes):
    path = directory / "model.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def test_round_trip(model, saved):
    again = Model.load(saved)
    latent = torch.randn(4, 5)
    assert torch.equal(again.render(latent), model.render(latent))
    image, weight = torch.randn(4, 3, 16, 16), torch.ones(4, 3, 16, 16)
    assert torch.equal(again.embed(image, weight), model.embed(image, weight))
    assert again.fingerprint == model.fingerprint
    assert (again.config, again.info, again.normalisation) == (model.config, model.info, model.normalisation)
    assert not any(p.requires_grad for p in again.generator.parameters())


def test_all_files_have_the_same_permissions(saved):
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_half_precision_on_disk_is_close(model, tmp_path):
    again = Model.load(model.save(tmp_path / "half", dtype="float16"))
    latent = torch.randn(4, 5)
    assert again.generator.first.weight.dtype == torch.float32
    assert again.fingerprint != model.fingerprint
    torch.testing.assert_close(again.generator(latent), model.generator(latent), rtol=5e-3, atol=5e-3)


def test_render_is_in_njy_and_differentiable(model):
    latent = torch.randn(2, 5, requires_grad=True)
    x = model.generator(latent)
    expected = NORMALISATION.denormalise(x.detach().numpy())
    image = model.render(latent)
    np.testing.assert_allclose(image.detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(image.sum(), latent)
    assert gradient.abs().min() > 0


def test_numpy_arrays_are_accepted_like_tensors(model):
    latent = np.random.default_rng(1).normal(
        size=(2, model.config.latent_size)
    )  # float64, the default of NumPy
    image = model.render(latent)
    assert torch.equal(image, model.render(torch.from_numpy(latent).float()))
    flux, weight = image.detach(), torch.ones_like(image)
    given = model.network_input(flux.numpy(), weight.numpy())
    assert torch.equal(given, model.network_input(flux, weight))
    assert given.abs().max() > 0


def test_arrays_as_from_fits_files_are_accepted(model):
    latent = np.random.default_rng(1).normal(size=(2, model.config.latent_size)).astype(np.float32)
    assert torch.equal(model.render(latent.astype(">f4")[:, ::-1]), model.render(latent[:, ::-1].copy()))


def test_arrays_of_the_wrong_shape_are_refused(model):
    bands, side = len(model.info.bands), model.info.size
    image = np.zeros((2, bands, side, side), np.float32)
    for images, weights in [(image[0], image[0]), (image[:, 1:], image[:, 1:]), (image, image[:1])]:
        with pytest.raises(InputError, match=rf"both must be \(N, {bands}, {side}, {side}\)"):
            model.embed(images, weights)
    with pytest.raises(InputError, match=rf"it must be \(N, {model.config.latent_size}\)"):
        model.render(np.zeros((2, 3)))


def test_it_is_shown_in_a_line(model):
    assert repr(model).startswith("<Model of ")
    assert len(repr(model)) < 200


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(saved):
    with pytest.raises(InputError, match="PyTorch finds no GPU on this machine; use device='cpu'"):
        Model.load(saved, "cuda")


def test_embed_ignores_values_in_pixels_without_data(model):
    image, weight = np.random.default_rng(0).normal(size=(2, 2, 3, 16, 16)).astype(np.float32)
    weight = np.abs(weight)
    weight[:, 1, 3:5] = 0
    clean, dirty = np.where(weight > 0, image, 0), np.where(weight > 0, image, np.nan)
    assert torch.equal(model.embed(clean, weight), model.embed(dirty, weight))
    assert not torch.equal(model.embed(image, weight), model.embed(image, np.ones_like(weight)) + 1)


def test_fingerprint_changes_with_weights_and_units(model, tmp_path):
    before = model.fingerprint
    other = Model.make(model.config, INFO, NORMALISATION)
    assert other.fingerprint != before
    content = model.save(tmp_path / "m")
    edit(content, normalisation=NORMALISATION.to_json() | {"std": [0.5, 0.6, 0.8]})
    assert Model.load(content).fingerprint != before
    edit(content, normalisation=NORMALISATION.to_json(), card={"note": "another card"})
    assert Model.load(content).fingerprint == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bands": ("u", "g", "i")}, ["bands u-g-i", "u-g-r", "cut again"]),
        ({"size": 32}, ["32 pixels", "size=16"]),
        ({"pixel_scale_arcsec": 0.396}, ["0.396", "0.168", "stack"]),
        ({"flux_unit": "uJy"}, ["uJy", "convert"]),
    ],
)
def test_refuses_cutouts_it_was_not_made_for(model, change, words):
    fields = {"bands": INFO.bands, "size": 16, "pixel_scale_arcsec": 0.168, "flux_unit": "nJy"}
    with pytest.raises(InputError) as error:
        model.check(StoreInfo(**fields | change))
    for word in words:
        assert word in str(error.value)


def test_errors_suggest_a_builtin_model_where_one_fits(model, tmp_path):
    with pytest.raises(InputError, match=r"train a model; or take builtin:ugriz, which takes these cutouts$"):
        model.check(StoreInfo(bands=("g", "r", "i"), size=24, pixel_scale_arcsec=0.3))
    with pytest.raises(InputError, match=r"train a model$"):  # none of the model's bands
        model.check(StoreInfo(bands=("J", "H"), size=16, pixel_scale_arcsec=0.168))
    with pytest.raises(InputError, match=r"^ugriz: no model.json there.*came with the package: builtin:"):
        Model.load("ugriz")


def test_matching_cutouts_are_accepted_with_a_caution_about_seeing(model):
    assert model.check(INFO) == []
    worse = StoreInfo(bands=INFO.bands, size=16, pixel_scale_arcsec=0.1681, fwhm_arcsec=(0.9, 0.8, 1.4))
    (caution,) = model.check(worse)
    assert "band r" in caution
    assert "1.40" in caution


def test_filters_with_similar_passbands_are_accepted_with_a_note(model):
    names = ("u*", "HSC-G", "r2")
    notes = model.check(StoreInfo(bands=names, size=16, pixel_scale_arcsec=0.168))
    for name, note, here in zip(names, notes, "ugr", strict=True):
        assert name in note
        assert f"model's {here}" in note
    assert len(notes) == 3
    with pytest.raises(InputError, match="bands HSC-G-u"):
        model.check(StoreInfo(bands=("HSC-G", "u*", "r"), size=16, pixel_scale_arcsec=0.168))


def test_all_mismatches_are_reported_at_once(model):
    with pytest.raises(InputError, match=r"pixels a side.*pixels of"):
        model.check(StoreInfo(bands=INFO.bands, size=32, pixel_scale_arcsec=0.4))


def test_loading_never_unpickles(saved):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code ran while a model was loaded",))

    (saved / "weights.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="damaged weights"):
        Model.load(saved)


def test_damaged_or_foreign_weights_are_refused(model, saved):
    path = saved / "weights.safetensors"
    good = path.read_bytes()
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}  # not a view of the file
    key = "generator.first.weight"

    def refused(match):
        with pytest.raises(InputError, match=match):
            Model.load(saved)

    path.write_bytes(good[: len(good) // 2])
    refused("damaged")
    save_file({k: v for k, v in tensors.items() if k != key}, path)
    refused("tensors do not match")
    save_file(tensors | {key: tensors[key].T.contiguous()}, path)
    refused("shape")
    save_file(tensors | {key: tensors[key].to(torch.int64)}, path)
    refused("I64")
    save_file(tensors | {key: tensors[key] * float("nan")}, path)
    refused("not finite")
    save_file(tensors | {key: tensors[key] + 1}, path)
    refused("not the weights that model.json describes")
    path.unlink()
    refused("no such file")
    path.write_bytes(good)
    assert Model.load(saved).fingerprint == model.fingerprint


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_weights_must_be_a_regular_file(saved, make):
    (saved / "weights.safetensors").unlink()
    make(saved / "weights.safetensors")
    with pytest.raises(InputError, match=r"weights\.safetensors: a "):
        Model.load(saved)
    with pytest.raises(InputError, match=r"weights\.safetensors: a "):
        fingerprint(saved / "weights.safetensors")


def test_huge_architectures_are_refused_without_allocating_memory(saved):
    architecture = json.loads((saved / "model.json").read_text())["architecture"]
    edit(saved, architecture=architecture | {"width": 8192, "latent_size": 4096})
    with pytest.raises(InputError, match="expected floats of"):
        Model.load(saved)
    edit(saved, architecture=architecture | {"width": 10**9})
    with pytest.raises(InputError, match="width"):
        Model.load(saved)


def test_wrong_descriptions_are_refused(saved, tmp_path):
    with pytest.raises(InputError, match=r"no model\.json"):
        Model.load(tmp_path)
    with pytest.raises(InputError, match=r"no model 'builtin:nothing'"):
        Model.load("builtin:nothing")
    edit(saved, schema_version=99)
    with pytest.raises(InputError, match="schema 99"):
        Model.load(saved)
    (saved / "model.json").write_text("[]")
    with pytest.raises(InputError, match="not a JSON object"):
        Model.load(saved)


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("architecture", "num_bands", True, "model.json: architecture: num_bands must be a whole number"),
        ("architecture", "widht", 8, "architecture: unknown key 'widht'; did you mean 'width'"),
        ("architecture", "negative_slope", "small", "negative_slope must be a finite number"),
        ("info", "bands", "ugr", "model.json: info: bands must be a list of strings, .*, not 'ugr'"),
        ("info", "pixel_scale_arcsec", 0, "info: pixel_scale_arcsec must be a finite number from 1e-06"),
        ("info", "bands", ["u", "../../g", "<script>"], "'../../g' is not a name for a band"),
        (
            "normalisation",
            "std",
            [1, 1, 1e-320],
            r"normalisation: std\[2\] must be a finite number from 1e-15",
        ),
        ("normalisation", "std", [1, 1, 1e308], r"normalisation: std\[2\] must be .* to 1e\+15"),
        ("normalisation", "mean", [1, None, 1], r"mean\[1\] must be a finite number .*, not None"),
        ("normalisation", "kind", "log", "kind must be 'standard' or 'asinh', not 'log'"),
    ],
)
def test_wrong_types_in_a_description_are_refused(saved, part, key, value, words):
    content = json.loads((saved / "model.json").read_text())
    edit(saved, **{part: content[part] | {key: value}})
    with pytest.raises(InputError, match=words):
        Model.load(saved)


def test_networks_with_non_finite_outputs_are_refused(model, tmp_path):
    """Each weight is finite, but the outputs are not."""
    with torch.no_grad():
        model.generator.first.bias.fill_(1e30)
        for block in model.generator.blocks:
            for weight in block.parameters():
                weight.mul_(1e6)
    model.save(tmp_path / "monster")
    with pytest.raises(InputError, match="do not draw or embed finite numbers"):
        Model.load(tmp_path / "monster")


def test_the_card_describes_the_model(model):
    model.card = {
        "recipe": "tiny", "steps": 1234, "seconds": 90.0, "seed": 3, "training": {"batch_size": 64},
        "data": {"num_used": 5678, "num_incomplete": 9, "num_held_out": 10, "fingerprint": "ab"},
        "metrics": {"spread": 0.95, "chi2_both": 1.03, "chi2_both_g": 1.07, "collapsed": False},
    }  # fmt: skip
    text = describe(model, "a name")
    for word in ["# a name", "u, g, r", "16×16", "0.168″", "u 0.90″", "1,234 steps", "5,678", "in g | 1.070"]:
        assert word in text
    assert model.fingerprint in text
    assert "collapsed: train" not in text
    model.card["metrics"]["collapsed"] = True
    assert "collapsed: train" in describe(model)
    model.card = {}
    assert "Training" not in describe(model)


def test_best_fits_are_drawn_from_a_data_frame(model):
    pandas = pytest.importorskip("pandas")
    latent = np.random.default_rng(3).normal(size=(5, 5)).astype(np.float32)
    frame = pandas.DataFrame({"latent": list(latent), "model_hash": model.fingerprint})
    drawn = model.draw(frame[frame.index > 1], [0, 2])  # whose rows are still numbered from 2
    np.testing.assert_array_equal(drawn, model.draw({"latent": latent}, [2, 4]))


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_best_fits_are_drawn_from_tables_of_other_libraries(model, library):
    module = pytest.importorskip(library)
    latent = np.random.default_rng(3).normal(size=(5, 5)).astype(np.float32)
    make = module.table if library == "pyarrow" else module.DataFrame
    table = make({"latent": latent.tolist(), "model_hash": [model.fingerprint] * 5})
    np.testing.assert_array_equal(model.draw(table, [0, 2]), model.draw({"latent": latent}, [0, 2]))


@pytest.mark.parametrize("features", ["run/features-both", np.zeros((3, 6))])
def test_anything_but_columns_cannot_be_drawn(model, features):
    with pytest.raises(InputError, match=r"must be columns, as from deepfits\.read_features, not"):
        model.draw(features)
