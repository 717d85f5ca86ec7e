import numpy as np
import pytest
import torch

from deepfits.sky.drawing import (
    Shapes,
    add_stamp,
    bulge_scale,
    draw_into,
    draw_stamps,
    moffat_transfer,
    psf_transfer,
    stamp_sizes,
)

galsim = pytest.importorskip("galsim")

FWHM = tuple(np.array([0.92, 0.83, 0.77, 0.66, 0.78]) / 0.168)
BETA = 3.0


def make_shapes(number: int, seed: int) -> Shapes:
    rng = np.random.default_rng(seed)
    flux = 10 ** rng.uniform(0, 3, (number, len(FWHM)))
    bulge = rng.uniform(0, 0.8, number) * (rng.random(number) < 0.6)
    radius = 10 ** rng.uniform(-0.5, 0.7, number)
    return Shapes(
        x=rng.uniform(0, 50, number),
        y=rng.uniform(0, 50, number),
        disc_flux=flux * (1 - bulge[:, None]),
        bulge_flux=flux * bulge[:, None],
        disc_radius=radius,
        bulge_radius=radius * rng.uniform(0.3, 1, number),
        disc_ratio=rng.uniform(0.2, 1, number),
        bulge_ratio=rng.uniform(0.5, 1, number),
        angle=rng.uniform(0, np.pi, number),
    )


def galsim_image(shapes: Shapes, index: int, band: int, size: int) -> np.ndarray:
    """Draw one object with GalSim: exact profiles, finer than its default accuracy."""
    parts = []
    for flux, radius, ratio, kind in (
        (shapes.disc_flux, shapes.disc_radius, shapes.disc_ratio, "disc"),
        (shapes.bulge_flux, shapes.bulge_radius, shapes.bulge_ratio, "bulge"),
    ):
        if flux[index, band] == 0:
            continue
        circular = radius[index] * np.sqrt(ratio[index])  # GalSim's shear keeps the area
        if kind == "disc":
            part = galsim.Exponential(half_light_radius=circular, flux=flux[index, band])
        else:
            part = galsim.Spergel(nu=-0.6, half_light_radius=circular, flux=flux[index, band])
        parts.append(part.shear(q=ratio[index], beta=shapes.angle[index] * galsim.radians))
    accuracy = galsim.GSParams(
        folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7, maximum_fft_size=16384
    )
    seen = galsim.Convolve(galsim.Add(parts), galsim.Moffat(beta=BETA, fwhm=FWHM[band]), gsparams=accuracy)
    image = galsim.Image(size, size, scale=1.0)
    image.setOrigin(0, 0)
    shift = [v[index] - np.rint(v[index]) for v in (shapes.x, shapes.y)]
    seen.drawImage(image, center=galsim.PositionD(size // 2 + shift[0], size // 2 + shift[1]))
    return np.asarray(image.array)


@pytest.mark.parametrize("band", [0, 3])
def test_stamps_agree_with_galsim(band):
    shapes = make_shapes(12, seed=1)
    size = 256
    ours = draw_stamps(shapes, psf_transfer(size, FWHM, BETA)).numpy()[:, band]
    for index, image in enumerate(ours):
        theirs = galsim_image(shapes, index, band, size)
        # Wave numbers above the pixels' own limit are left out: up to 2e-4 of the peak for the smallest
        # galaxies in the sharpest band.
        assert np.abs(image - theirs).max() < 3e-4 * theirs.max(), index
        assert image.max() == pytest.approx(theirs.max(), rel=3e-4)
        # Our stamp is periodic and keeps all light, GalSim's ends at its border.
        assert image.sum() == pytest.approx(theirs.sum(), rel=2e-3)


def test_half_light_radius_agrees_with_galsim():
    shapes = make_shapes(6, seed=2)
    size = 256
    ours = draw_stamps(shapes, psf_transfer(size, FWHM, BETA)).numpy()[:, 2]
    for index, image in enumerate(ours):
        theirs = galsim.Image(galsim_image(shapes, index, 2, size), scale=1.0)
        radius = galsim.Image(image, scale=1.0).calculateHLR()
        assert radius == pytest.approx(theirs.calculateHLR(), abs=2e-3)


def test_a_stamp_keeps_the_flux_in_every_band():
    shapes = make_shapes(40, seed=3)
    stamps = draw_stamps(shapes, psf_transfer(32, FWHM, BETA)).double().sum(dim=(2, 3)).numpy()
    # float32 transforms of 32 × 32
    np.testing.assert_allclose(stamps, shapes.disc_flux + shapes.bulge_flux, rtol=2e-6)


def test_bulge_radius_holds_half_the_light():
    assert 1 / bulge_scale() == pytest.approx(galsim.Spergel(nu=-0.6, half_light_radius=1).scale_radius)


def test_moffat_transfer_agrees_with_galsim():
    k = np.array([0.0, 0.05, 0.3, 1.0, 2.0])
    theirs = galsim.Moffat(beta=BETA, fwhm=4.0)
    expected = [theirs.kValue(one, 0.0).real for one in k]
    np.testing.assert_allclose(moffat_transfer(k, 4.0, BETA), expected, atol=1e-6)


def test_a_star_is_the_psf():
    star = Shapes(
        x=np.array([7.3]),
        y=np.array([4.9]),
        disc_flux=np.full((1, 5), 100.0),
        bulge_flux=np.zeros((1, 5)),
        **{n: np.zeros(1) for n in ("disc_radius", "bulge_radius", "angle")},
        **{n: np.ones(1) for n in ("disc_ratio", "bulge_ratio")},
    )
    ours = draw_stamps(star, psf_transfer(256, FWHM, BETA)).numpy()[0, 1]
    image = galsim.Image(256, 256, scale=1.0)
    image.setOrigin(0, 0)
    galsim.Moffat(beta=BETA, fwhm=FWHM[1], flux=100.0).drawImage(image, center=galsim.PositionD(128.3, 127.9))
    # A star has no smoothing but the PSF: what is left out above the limit of the pixels is largest here.
    assert np.abs(ours - image.array).max() < 1e-3 * image.array.max()


def test_batches_do_not_matter():
    shapes = make_shapes(17, seed=4)
    transfer = psf_transfer(32, FWHM, BETA)
    together = draw_stamps(shapes, transfer)
    for index in range(len(shapes)):
        alone = draw_stamps(shapes.take(np.array([index])), transfer)[0]
        # Vectorised and scalar float32 functions differ in the last digit.
        torch.testing.assert_close(
            alone, together[index], rtol=1e-5, atol=1e-5 * together[index].max().item()
        )


def test_nothing_visible_is_cut_at_the_border_of_a_stamp():
    shapes = make_shapes(60, seed=5)
    faint = np.full(5, 0.03)
    sizes = stamp_sizes(shapes, faint, np.array(FWHM), BETA)
    assert len(np.unique(sizes)) > 3
    for size in np.unique(sizes):
        which = np.flatnonzero(sizes == size)
        big = draw_stamps(shapes.take(which), psf_transfer(2 * int(size), FWHM, BETA)).numpy()
        low = size - size // 2
        big[:, :, low : low + size, low : low + size] = 0
        # The reach of PSF and galaxy are added in quadrature, an estimate: within a factor of two.
        assert big.max() < 2 * faint[0], size


def test_a_scene_is_the_sum_of_its_objects_wherever_it_is_divided():
    shapes = make_shapes(30, seed=6)
    sizes = stamp_sizes(shapes, np.full(5, 0.1), np.array(FWHM), BETA)
    whole = np.zeros((5, 50, 50), dtype=np.float32)
    draw_into(whole, shapes, sizes, FWHM, BETA)
    assert whole.max() > 1
    for first, last in ((0, 20), (20, 50)):
        part = np.zeros((5, last - first, 50), dtype=np.float32)
        draw_into(part, shapes, sizes, FWHM, BETA, first_row=first)
        np.testing.assert_allclose(part, whole[:, first:last], atol=1e-4)


def test_add_stamp_leaves_out_what_lies_outside():
    image = np.zeros((1, 6, 8), dtype=np.float32)
    stamp = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    add_stamp(image, stamp, left=-1, bottom=4)
    np.testing.assert_array_equal(image[0, 4:, :3], stamp[0, :2, 1:])
    assert image.sum() == stamp[0, :2, 1:].sum()
    add_stamp(image, stamp, left=50, bottom=50)
    assert image.sum() == stamp[0, :2, 1:].sum()


@pytest.mark.gpu
def test_a_gpu_draws_the_same():
    shapes = make_shapes(200, seed=7)
    transfer = psf_transfer(32, FWHM, BETA)
    here = draw_stamps(shapes, transfer)
    there = draw_stamps(shapes, transfer.cuda()).cpu()
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
