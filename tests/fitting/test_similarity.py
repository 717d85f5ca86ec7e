"""Distances that are insensitive to the orientation, position and noise of a galaxy."""

import numpy as np
import pytest
import torch

from deepfits.errors import InputError
from deepfits.fitting.similarity import Similarity, learn_nuisance, shifted


class Turntable:
    """A model that draws one bright spot, whose embedder returns its brightness and its row."""

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


def test_directions_that_change_with_orientation_count_little():
    latent = np.random.default_rng(1).normal(size=(64, 2)).astype(np.float32)
    nuisance = learn_nuisance(Turntable(), latent, np.zeros((64, 2, 2)), np.array([0.1]))
    assert nuisance[1, 1] > 2  # the row is 1, 3, 4 or 6 of 8
    assert nuisance[0, 0] < 0.05  # only noise: 8 × 0.1 / 10, squared
    found = Similarity.of(nuisance)
    brighter, turned = found.coordinates(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert np.linalg.norm(brighter) > 4 * np.linalg.norm(turned)


def test_directions_that_fits_do_not_constrain_count_little():
    latent = np.random.default_rng(1).normal(size=(64, 2)).astype(np.float32)
    covariance = np.tile(np.diag([9.0, 1.0]), (64, 1, 1))
    known = learn_nuisance(Turntable(), latent, np.zeros((64, 2, 2)), np.array([0.1]))
    unsure = learn_nuisance(Turntable(), latent, covariance, np.array([0.1])) - known
    # The variance of 256 draws has an error of 9%; the tolerance is five times as large.
    assert unsure[0, 0] == pytest.approx(9.0, rel=0.45)
    assert unsure[1, 1] == pytest.approx(0, abs=1e-6)  # the embedding does not depend on the row of the spot


def test_subpixel_shifts_conserve_flux_and_move_the_centroid():
    rows, columns = np.mgrid[:16, :16]
    blob = torch.from_numpy(np.exp(-((rows - 7.5) ** 2 + (columns - 7.5) ** 2) / 8))[None, None]
    moved = shifted(blob, [0.3, -0.4])[0, 0]
    assert float(moved.sum()) == pytest.approx(float(blob.sum()), rel=1e-6)
    middle = [float((moved * torch.from_numpy(index)).sum() / moved.sum()) for index in (rows, columns)]
    assert middle == pytest.approx([7.8, 7.1], abs=0.01)


def test_similarity_round_trip_and_errors_for_damaged_files(tmp_path):
    found = Similarity.of(np.array([[2.0, 0.3], [0.3, 1.0]]))
    found.save(tmp_path)
    np.testing.assert_allclose(Similarity.read(tmp_path, 2).matrix, found.matrix, atol=1e-5)
    with pytest.raises(InputError, match=r"_similarity\.json: holds no matrix of 3 × 3"):
        Similarity.read(tmp_path, 3)
    np.testing.assert_array_equal(Similarity.read(tmp_path / "none", 3).matrix, np.eye(3))
