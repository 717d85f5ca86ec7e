from dataclasses import replace

import numpy as np
import pytest

from deepfits.sky.defects import IS_BAD, PLANES, Defects, add_defects, draw_defects, saturation_levels
from deepfits.sky.drawing import Shapes
from deepfits.sky.scene import draw_model, draw_objects, draw_strip, make_scene
from deepfits.sky.surveys import find_survey

SURVEY = find_survey("clauds-hsc")
NONE = Defects()


def star(x: float, y: float, flux: float) -> Shapes:
    zero, one = np.zeros(1), np.ones(1)
    return Shapes(
        x=np.array([x]),
        y=np.array([y]),
        disc_flux=np.full((1, 5), flux),
        bulge_flux=np.zeros((1, 5)),
        disc_radius=zero,
        bulge_radius=zero,
        disc_ratio=one,
        bulge_ratio=one,
        angle=zero,
    )


def spoiled(model: np.ndarray, shapes: Shapes, defects: Defects) -> tuple[np.ndarray, np.ndarray]:
    image = model.copy()
    rows = (0, model.shape[1])
    bits = add_defects(image, model, rows, survey=SURVEY, sigma=np.ones(5), shapes=shapes, defects=defects)
    return image, bits


def test_a_bright_star_saturates_and_bleeds_along_its_column():
    levels = saturation_levels(SURVEY)
    model = np.zeros((5, 80, 60), dtype=np.float32)
    model[:, 40, 30] = 3 * levels
    image, bits = spoiled(model, star(30, 40, 10 ** (0.4 * (31.4 - 14.0))), NONE)
    full = (bits & (1 << PLANES["SAT"])) != 0
    assert (image.max(axis=(1, 2)) <= levels * 1.000001).all()
    assert full[3, 40, 30]
    assert full[3, 70, 30]  # far above the star in its column
    assert not full[3, 40, 36]  # but not beside it
    assert ((bits & IS_BAD) != 0)[full].all()


def test_a_star_below_saturation_is_left_alone():
    faint = 10 ** (0.4 * (31.4 - 19.0))
    model = np.zeros((5, 80, 60), dtype=np.float32)
    model[:, 40, 30] = 0.3 * saturation_levels(SURVEY)
    image, bits = spoiled(model, star(30, 40, faint), NONE)
    np.testing.assert_array_equal(image, model)
    assert not (bits & IS_BAD).any()


def test_columns_gaps_and_trails_are_where_they_are_said_to_be():
    model = np.zeros((5, 50, 60), dtype=np.float32)
    defects = Defects(
        columns=[(1, 7, 10, 30, 2)], gaps=[(2, 0, 50, 20, 25)], trails=[(3, 30.0, 25.0, 0.0, 2.0, 40.0)]
    )
    image, bits = spoiled(model + 1, star(0, 0, 0.0), defects)
    bad = (bits & IS_BAD) != 0
    np.testing.assert_array_equal(np.argwhere(bad[1]), [[y, x] for y in range(10, 30) for x in (7, 8)])
    assert bad[2].sum() == 50 * 5
    assert (image[2][bad[2]] == 0).all()
    assert image[3, 25, 5] == pytest.approx(41.0)  # peak of 40 σ on a background of 1
    assert bad[3, 25].all()
    assert not bad[3, 45].any()
    assert not bad[[0, 4]].any()


def test_defects_of_strips_are_those_of_the_patch():
    size = 512
    scene = make_scene(SURVEY, size, 4, 0, draw_objects(SURVEY, size, 4, 0))
    defects = Defects(
        columns=[(1, 70, 100, 400, 2)],
        gaps=[(2, 190, 210, 0, 512)],
        trails=[(3, 30.0, 25.0, 0.7, 2.0, 40.0)],
    )
    scene = replace(scene, defects=defects)
    whole = draw_strip(scene, (0, size))
    parts = [draw_strip(scene, rows) for rows in ((0, 200), (200, size))]
    bits = np.concatenate([part[2] for part in parts], axis=1)
    # Where the light is just at a threshold, the order of sums decides.
    assert (bits != whole[2]).mean() < 1e-5
    assert ((whole[2] & IS_BAD) != 0).mean() > 0.001


def test_the_variance_stays_that_of_the_light_without_defects():
    size = 256
    table = draw_objects(SURVEY, size, 4, 0)
    spoiled_scene, clean = (
        make_scene(SURVEY, size, 4, 0, table, defects=defects) for defects in (True, False)
    )
    one, two = draw_strip(spoiled_scene, (0, size)), draw_strip(clean, (0, size))
    np.testing.assert_array_equal(one[1], two[1])
    good = (one[2] & IS_BAD) == 0
    np.testing.assert_array_equal(one[0][good], two[0][good])
    assert draw_model(clean, (0, size)).max() > 100


def test_about_one_cutout_in_ten_is_touched():
    size, side = 4000, 32
    hit = []
    for seed in range(4):
        defects = draw_defects(5, size, np.random.default_rng(seed))
        model = np.zeros((5, size // 4, size), dtype=np.float32)  # a quarter of the patch will do
        _, bits = spoiled(model, star(0, 0, 0.0), defects)
        bad = ((bits & IS_BAD) != 0).any(axis=0)
        blocks = bad[: size // 4 // side * side].reshape(-1, side, size // side, side)
        hit.append(blocks.any(axis=(1, 3)).mean())
    assert 0.03 < np.mean(hit) < 0.2
