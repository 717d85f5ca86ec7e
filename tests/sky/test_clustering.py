import numpy as np

from deepfits.sky.clustering import SLOPE, clustered_positions

SCALE = 0.168


def pair_counts(x, y, edges):
    from scipy.spatial import cKDTree

    tree = cKDTree(np.column_stack([x, y]))
    return np.diff(tree.count_neighbors(tree, edges)) / 2


def test_galaxies_cluster_with_the_slope_they_are_given():
    rng = np.random.default_rng(1)
    number, side = 20_000, 5000.0
    redshift = rng.gamma(2.0, 0.5, number)
    edges = np.geomspace(2, 40, 6) / SCALE
    x, y = clustered_positions(redshift, 0.0, side, SCALE, rng)
    chance = pair_counts(*rng.uniform(0, side, (2, number)), edges)
    excess = pair_counts(x, y, edges) / chance - 1
    assert (excess > 0).all()
    slope = np.polyfit(np.log(edges[:-1] * edges[1:]) / 2, np.log(excess), 1)[0]
    # Pairs of two satellites of one centre fall a little less steeply than pairs with the centre itself.
    assert -SLOPE - 0.2 < slope < -SLOPE + 0.5


def test_neighbours_share_their_redshift():
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(2)
    redshift = rng.gamma(2.0, 0.5, 20_000)
    x, y = clustered_positions(redshift, 0.0, 5000.0, SCALE, rng)
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(4 / SCALE, output_type="ndarray")
    close = np.abs(np.diff(redshift[pairs], axis=1)) < 0.02
    shuffled = np.abs(np.diff(rng.permutation(redshift)[pairs], axis=1)) < 0.02
    assert close.mean() > 2 * shuffled.mean()


def test_the_density_stays_even():
    rng = np.random.default_rng(3)
    x, y = clustered_positions(rng.gamma(2.0, 0.5, 40_000), -24.5, 975.5, SCALE, rng)
    counts, _, _ = np.histogram2d(x, y, bins=4, range=[[-24.5, 975.5]] * 2)
    assert counts.sum() == 40_000
    # 16 fields with 2,500 each; clusters make them vary more than Poisson's 2%.
    assert counts.std() / counts.mean() < 0.1


def test_a_sky_with_one_galaxy_is_no_error():
    x, y = clustered_positions(np.array([0.5]), 0.0, 10.0, SCALE, np.random.default_rng(4))
    assert 0 <= x[0] < 10
    assert 0 <= y[0] < 10
