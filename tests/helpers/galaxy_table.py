"""A catalogue of galaxies from which to simulate a sky."""

import numpy as np

BANDS = "ugriz"


def make_table(number: int = 30) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    table = {f"mag_{b}": rng.uniform(20, 22.5, number) for b in BANDS}
    return table | {
        "object_id": np.arange(number) + 700,
        "z_spec": rng.uniform(0.2, 1.0, number),
        "half_light_radius_arcsec": np.full(number, 0.5),
        "axis_ratio": rng.uniform(0.3, 1.0, number),
        "angle_deg": rng.uniform(0, 180, number),
    }
