"""Distances that do not count how a galaxy is turned, placed and blurred by noise."""

import numpy as np
import pytest
import torch

from deepfits.errors import InputError
from deepfits.fitting.similarity import Similarity, learn_nuisance, shifted


class Turntable:
    """Draws one bright spot; the embedder reads its brightness, and how many rows down it is."""

    def nominal_sight(self, number):
        return None

    def draw(self, latent, sight=None):
        out = torch.zeros(len(latent), 1, 8, 8)
        out[:, 0, 1, 3] = 100 + 10 * latent[:, 0]
        return out

    def embed(self, image, weight, sight=None):
        total = image.sum((1, 2, 3))
        down = (image.sum((1, 3)) * torch.arange(8.0)).sum(1) / total
        return torch.stack([(total - 100) / 10, down], dim=1)

    def embedding(self, latent):
        return torch.stack([latent[:, 0], 0 * latent[:, 0]], dim=1)


def test_what_turning_changes_counts_little_and_what_it_leaves_much():
    latent = np.random.default_rng(1).normal(size=(64, 2)).astype(np.float32)
    nuisance = learn_nuisance(Turntable(), latent, np.zeros((64, 2, 2)), np.array([0.1]))
    assert nuisance[1, 1] > 2  # rows from the top: 1, 3, 4 or 6 of 8
    assert nuisance[0, 0] < 0.05  # noise alone: 8 × 0.1 / 10, squared
    found = Similarity.of(nuisance)
    brighter, turned = found.coordinates(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert np.linalg.norm(brighter) > 4 * np.linalg.norm(turned)


def test_what_fits_leave_open_counts_little():
    latent = np.random.default_rng(1).normal(size=(64, 2)).astype(np.float32)
    covariance = np.tile(np.diag([9.0, 1.0]), (64, 1, 1))
    known = learn_nuisance(Turntable(), latent, np.zeros((64, 2, 2)), np.array([0.1]))
    unsure = learn_nuisance(Turntable(), latent, covariance, np.array([0.1])) - known
    # A variance of 256 draws is off by 9% in the mean: five times that.
    assert unsure[0, 0] == pytest.approx(9.0, rel=0.45)
    assert unsure[1, 1] == pytest.approx(0, abs=1e-6)  # the embedding does not know how far down a spot is


def test_shifts_by_parts_of_a_pixel_keep_the_flux_and_move_the_middle():
    rows, columns = np.mgrid[:16, :16]
    blob = torch.from_numpy(np.exp(-((rows - 7.5) ** 2 + (columns - 7.5) ** 2) / 8))[None, None]
    moved = shifted(blob, [0.3, -0.4])[0, 0]
    assert float(moved.sum()) == pytest.approx(float(blob.sum()), rel=1e-6)
    middle = [float((moved * torch.from_numpy(one)).sum() / moved.sum()) for one in (rows, columns)]
    assert middle == pytest.approx([7.8, 7.1], abs=0.01)


def test_what_lies_beside_features_comes_back_and_damage_is_named(tmp_path):
    found = Similarity.of(np.array([[2.0, 0.3], [0.3, 1.0]]))
    found.save(tmp_path)
    np.testing.assert_allclose(Similarity.read(tmp_path, 2).matrix, found.matrix, atol=1e-5)
    with pytest.raises(InputError, match=r"_similarity\.json: holds no matrix of 3 × 3"):
        Similarity.read(tmp_path, 3)
    np.testing.assert_array_equal(Similarity.read(tmp_path / "none", 3).matrix, np.eye(3))
