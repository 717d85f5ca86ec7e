"""The way from scenes to data, against GalSim and against itself."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepfits.errors import InputError
from deepfits.gaussian_psf import (
    NUM_GAUSSIANS,
    expand_image,
    fwhm_of,
    moffat_psf,
    non_negative,
    psf_or_moffat,
)
from deepfits.observation import (
    FEWEST_PIXELS,
    Observation,
    SceneGrid,
    Sight,
    above_reference,
    all_above_reference,
    small_products,
)

GRID = SceneGrid(size=32, pixel_scale_arcsec=0.18, reference_fwhm_arcsec=0.4)
UNSHIFTED = np.zeros((1, 2))
PIXELS = [(0.168, 32), (0.2, 27), (0.263, 20), (0.396, 14)]


def one_gaussian(sigma: float) -> np.ndarray:
    psf = np.zeros((NUM_GAUSSIANS, 2), dtype=np.float32)
    psf[:, 1] = sigma
    psf[0, 0] = 1
    return psf


def draw_galaxy():
    galsim = pytest.importorskip("galsim")
    disc = galsim.Exponential(half_light_radius=0.35, flux=70).shear(g1=0.2, g2=0.1)
    bulge = galsim.Gaussian(half_light_radius=0.15, flux=30)
    galaxy = (disc + bulge).shift(0.05, -0.1)
    reference = galsim.Gaussian(sigma=GRID.reference_sigma)
    scene = galsim.Convolve(galaxy, reference).drawImage(
        nx=GRID.size, ny=GRID.size, scale=GRID.pixel_scale_arcsec, method="no_pixel"
    )
    return galsim, galaxy, torch.from_numpy(scene.array.copy())


def make_observation(
    psf: np.ndarray,
    size: int,
    pixel: float,
    shift: np.ndarray = UNSHIFTED,
    dtype: torch.dtype = torch.float32,
    **options: int,
) -> Observation:
    sight = Sight(GRID, torch.from_numpy(psf), torch.from_numpy(shift), size, pixel)
    return sight.observation(dtype, **options)


@pytest.mark.parametrize(("pixel", "size"), PIXELS)
@pytest.mark.parametrize(("fwhm", "beta"), [(0.6, 3.0), (0.8, 2.5), (0.9, 3.0), (1.4, 4.5)])
def test_shows_what_galsim_draws(pixel: float, size: int, fwhm: float, beta: float) -> None:
    galsim, galaxy, scene = draw_galaxy()
    shift = (0.3, -0.2)  # y, x, in data pixels
    seen = galsim.Convolve(galaxy, galsim.Moffat(beta=beta, fwhm=fwhm))
    expected = seen.drawImage(nx=size, ny=size, scale=pixel, offset=(shift[1], shift[0])).array
    psf = above_reference(moffat_psf(fwhm, beta), GRID)
    observe = make_observation(psf[None, None], size, pixel, np.array([shift]))
    found = observe(scene[None, None])[0, 0].numpy()
    assert np.abs(found - expected).max() < 0.01 * expected.max()
    assert abs(found.sum() / expected.sum() - 1) < 1e-3


@pytest.mark.parametrize(("pixel", "size"), PIXELS)
def test_measured_psf_images_are_expanded(pixel: float, size: int) -> None:
    galsim, galaxy, scene = draw_galaxy()
    kolmogorov = galsim.Kolmogorov(fwhm=0.9)
    star = kolmogorov.drawImage(nx=41, ny=41, scale=pixel).array  # with the pixel, as stars have it
    psf = above_reference(expand_image(star, pixel), GRID)
    assert abs(float(fwhm_of(psf)) / 0.9 - 1) < 0.02
    expected = galsim.Convolve(galaxy, kolmogorov).drawImage(nx=size, ny=size, scale=pixel).array
    found = make_observation(psf[None, None], size, pixel)(scene[None, None])
    assert np.abs(found[0, 0].numpy() - expected).max() < 0.01 * expected.max()


def test_nothing_changes_where_nothing_does() -> None:
    psf = above_reference(one_gaussian(GRID.reference_sigma), GRID)
    observe = make_observation(psf[None, None], 32, 0.18)
    scene = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(observe(scene), scene, atol=1e-6)


def make_mixed(dtype: torch.dtype = torch.float64, **options: int) -> Observation:
    psf = [[above_reference(moffat_psf(w, b), GRID) for w, b in ((0.7, 3), (1.1, 2.5))] for _ in range(3)]
    shift = np.array([[0.0, 0.0], [0.3, -0.4], [-0.1, 0.2]])
    return make_observation(np.array(psf), 20, 0.263, shift, dtype, **options)


def test_adjoint() -> None:
    observe, draw = make_mixed(), torch.Generator().manual_seed(1)
    scene = torch.randn(3, 2, 32, 32, generator=draw, dtype=torch.float64)
    image = torch.randn(3, 2, 20, 20, generator=draw, dtype=torch.float64)
    left, right = (observe(scene) * image).sum(), (scene * observe.transpose(image)).sum()
    assert abs(left) > 1
    assert torch.allclose(left, right, rtol=1e-12)


def test_tangents_are_the_map_along_each_direction() -> None:
    observe = make_mixed()
    derivative = torch.randn(3, 4, 2, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    each = torch.stack([observe(derivative[:, i]) for i in range(4)], dim=1)
    assert each.abs().max() > 0.1
    assert torch.allclose(observe.tangents(derivative), each, rtol=1e-12)


def test_two_terms_are_nearly_all() -> None:
    at = (torch.arange(32, dtype=torch.float64) - 15.5) * GRID.pixel_scale_arcsec
    star = torch.exp(-0.5 * (at / GRID.reference_sigma) ** 2)  # the sharpest that a scene holds
    scene = torch.outer(star, star).expand(3, 2, 32, 32)
    exact, short = make_mixed(terms=NUM_GAUSSIANS)(scene), make_mixed()(scene)
    assert (short - exact).abs().max() < 0.01 * exact.max()
    assert torch.allclose(short.sum((2, 3)), exact.sum((2, 3)), rtol=1e-3)


def test_slots_are_replaced() -> None:
    observe, other = make_mixed(), make_mixed()
    scene = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    observe.put(torch.tensor([2]), other[1:2])
    moved = observe(scene[[1, 1, 1]])
    assert torch.equal(moved[2], moved[1])
    assert not torch.allclose(moved[0], moved[1])


@pytest.mark.skipif(
    small_products() is None, reason="the compiled products are not there, or cannot run here"
)
@pytest.mark.parametrize("scene_side", [FEWEST_PIXELS, 21, 32])
@pytest.mark.parametrize("side", [*range(FEWEST_PIXELS, 34), 50])
def test_compiled_products_are_those_of_pytorch(side: int, scene_side: int) -> None:
    draw = torch.Generator().manual_seed(side)
    rows = torch.randn(6, side, 2 * scene_side, generator=draw)
    columns = torch.randn(6, scene_side, 2 * side, generator=draw)
    observe = Observation(rows, columns, 2)
    assert observe.turned is not None
    scene = torch.randn(3, 2, scene_side, scene_side, generator=draw)
    image = torch.randn(3, 2, side, side, generator=draw)
    shown, back = observe.show(scene), observe.transpose(image)
    exact = Observation(rows.double(), columns.double(), 2)
    size = Observation(rows.abs().double(), columns.abs().double(), 2)
    assert exact.turned is None
    most = (side + 2 * scene_side) * torch.finfo(torch.float32).eps  # what rounding can make of two sums
    assert ((shown - exact(scene.double())).abs() < most * size(scene.double().abs())).all()
    most = 3 * side * torch.finfo(torch.float32).eps
    assert (
        (back - exact.transpose(image.double())).abs() < most * size.transpose(image.double().abs())
    ).all()
    # no object knows which others are there, nor does one that is put in another's place
    one = Observation(rows[2:4].clone(), columns[2:4].clone(), 2)
    assert torch.equal(one.show(scene[1:2]), shown[1:2])
    assert torch.equal(one.transpose(image[1:2]), back[1:2])
    # nor does a derivative know which others are seen through the same matrices
    derivative = torch.stack((scene, scene.flip(2), 2 * scene), dim=1)
    each = [observe.show(derivative[:, i].contiguous()) for i in range(3)]
    assert torch.equal(observe.tangents(derivative), torch.stack(each, dim=1))
    observe.put(torch.tensor([0]), one)
    assert torch.equal(observe.transpose(image[[1, 1, 2]])[0], back[1])


@pytest.mark.parametrize("origin", ["broken.so", torch._C.__file__], ids=["machine", "source"])
def test_a_library_that_does_not_serve_is_said_and_left_out(origin, tmp_path, monkeypatch, caplog) -> None:
    (tmp_path / "broken.so").write_bytes(b"no library")
    there = SimpleNamespace(origin=str(tmp_path / origin))
    monkeypatch.setattr("deepfits.compiled.find_spec", lambda name: there)
    small_products.cache_clear()
    try:
        assert small_products() is None
        assert "reinstall deepfits" in caplog.text
        observe = Observation(torch.ones(2, 9, 64), torch.ones(2, 32, 18), 2)
        assert observe.show(torch.ones(1, 2, 32, 32)).unique().tolist() == [2 * 32.0 * 32]
    finally:
        small_products.cache_clear()


def test_fewer_pixels_are_left_to_pytorch() -> None:
    few = FEWEST_PIXELS - 1
    observe = Observation(torch.ones(2, few, 64), torch.ones(2, 32, 2 * few), 2)
    assert observe.turned is None
    assert torch.equal(observe.show(torch.ones(1, 2, 32, 32)), observe(torch.ones(1, 2, 32, 32)))


def test_one_observation_for_all() -> None:
    whole = make_mixed()
    first = whole[:1]
    scene = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = first(scene.repeat(3, 1, 1, 1))
    assert torch.allclose(found, whole(scene.repeat(3, 1, 1, 1))[:1].expand_as(found), rtol=1e-12)


def test_a_psf_sharper_than_the_reference_is_refused() -> None:
    with pytest.raises(InputError, match=r"band i: a PSF of 0\.40 arcsec .* finer scenes"):
        above_reference(moffat_psf(0.4), GRID, "i")
    with pytest.raises(InputError, match="too sharp"):
        above_reference(one_gaussian(0.9 * GRID.reference_sigma), GRID)


@pytest.mark.parametrize("beta", [2.0, 3.0, 8.0])
@pytest.mark.parametrize(("reference", "pixel"), [(0.4, 0.18), (0.06, 0.18), (0.1, 0.02)])
def test_what_is_advised_for_a_sharp_psf_works(reference: float, pixel: float, beta: float) -> None:
    grid = SceneGrid(size=32, pixel_scale_arcsec=pixel, reference_fwhm_arcsec=reference)
    sharp = moffat_psf(0.09, beta)
    with pytest.raises(InputError, match="too sharp") as refused:
        above_reference(sharp, grid)
    found = re.search(
        r"to about ([\d.]+) arcsec.*reference_fwhm_arcsec=([\d.]+),scene_pixel_arcsec=([\d.]+)",
        str(refused.value),
    )
    assert found is not None
    wide, finer_reference, finer_pixel = (float(text) for text in found.groups())
    above_reference(moffat_psf(wide, beta), grid)
    above_reference(
        sharp, SceneGrid(size=32, pixel_scale_arcsec=finer_pixel, reference_fwhm_arcsec=finer_reference)
    )


def test_an_empty_image_is_no_psf() -> None:
    with pytest.raises(InputError, match="have a positive flux"):
        expand_image(np.zeros((25, 25)), 0.2)


def test_non_negative_least_squares_is_scipys() -> None:
    from scipy.optimize import nnls

    rng = np.random.default_rng(4)
    for _ in range(20):
        matrix, target = rng.normal(size=(30, 8)), rng.normal(size=30)
        expected = nnls(matrix, target)[0]
        assert (expected > 0).any()
        assert np.allclose(non_negative(matrix, target), expected, atol=1e-9)


def test_psfs_of_fewer_gaussians_keep_their_weights_beside_usual_ones():
    """A store may hold one Gaussian a band, and lack another band's."""
    psf = np.array([[[[1, 0.4]], [[np.nan, np.nan]]]])
    found = psf_or_moffat(psf, (0.9, 0.7), 1)
    np.testing.assert_allclose(found[..., 0].sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(fwhm_of(found), [[0.4 * 2.3548, 0.7]], rtol=1e-3)


def test_psfs_of_no_object_and_unknown_ones_of_unused_bands() -> None:
    known = all_above_reference(np.zeros((0, 2, 8, 2)), GRID, "gr", np.ones((0, 2), bool))
    assert known.shape == (0, 2, 8, 2)
    psf = np.stack([moffat_psf(0.8), np.full_like(moffat_psf(0.8), np.nan)])[None].repeat(3, axis=0)
    known = all_above_reference(psf, GRID, "gr", np.array([[True, False]] * 3))
    assert np.isfinite(known).all()
    with pytest.raises(InputError, match="band r: the PSF is unknown"):
        all_above_reference(psf, GRID, "gr", np.ones((3, 2), bool))
