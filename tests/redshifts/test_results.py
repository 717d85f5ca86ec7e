"""Result tables in Markdown and LaTeX agree with the measured metrics."""

import re

import numpy as np
import pytest

from deepfits.redshifts.metrics import point_metrics
from deepfits.redshifts.results import (
    RowKey,
    format_metric,
    latex_table,
    make_row,
    markdown_table,
    mean_rows,
)


@pytest.fixture(scope="module")
def row():
    generator = np.random.default_rng(0)
    z_spec = np.concatenate([generator.uniform(0, 2, 300), generator.uniform(2, 3, 60)])
    z_phot = z_spec + 0.05 * (1 + z_spec) * generator.normal(size=360)
    is_outside = np.zeros(360, dtype=bool)
    is_outside[:40] = True
    z_phot[:40] += 1.0
    z_phot[359] = np.nan
    predictions = {"z_phot": z_phot, "is_outside_domain": is_outside}
    key = RowKey(method="boosting", features="latents", loss="absolute")
    made = make_row(key, predictions, z_spec, np.full(360, 22.5), num_train=1000, seconds=1.0)
    return made, z_phot, z_spec


def test_rows_count_missing_estimates(row):
    made, z_phot, z_spec = row
    assert (made["num_test"], made["num_missing"]) == (359, 1)
    expected = point_metrics(z_phot[:-1], z_spec[:-1])
    assert {name: entry["value"] for name, entry in made["metrics"].items()} == expected
    assert made["by_magnitude"][0]["num"] == 359
    assert sum(entry["num"] for entry in made["by_redshift"]) == 359


def test_errors_of_a_mean_over_draws_include_their_scatter(row):
    made, z_phot, z_spec = row
    key = RowKey(method="boosting", features="latents", loss="absolute")
    moved = {"z_phot": z_phot + 0.1, "is_outside_domain": np.zeros(360, dtype=bool)}
    other = make_row(key, moved, z_spec, np.full(360, 22.5), num_train=1000, seconds=2.0)
    (mean,) = mean_rows([[made], [other]])
    assert mean["num_draws"] == 2
    assert mean_rows([[made]]) == [made]
    for of in (lambda r: r["metrics"], lambda r: r["by_redshift"][-1]["metrics"]):
        one, two, both = (of(r)["rmse"] for r in (made, other, mean))
        assert both["value"] == pytest.approx((one["value"] + two["value"]) / 2)
        within = (one["error"] ** 2 + two["error"] ** 2) / 2
        between = (one["value"] - two["value"]) ** 2 / 4
        assert both["error"] == pytest.approx((within + between) ** 0.5)
    assert mean["by_redshift"][-1]["num"] == made["by_redshift"][-1]["num"]
    assert "domain" in made  # of one draw of the labels
    assert "domain" not in mean


def test_markdown_contains_all_metrics(row):
    made, _, _ = row
    text = markdown_table({"rows": [made]})
    cells = [cell.strip() for cell in text.splitlines()[4].strip("|").split("|")]
    assert cells[:3] == ["boosting", "latents", "absolute"]
    assert cells[3] == format_metric(made["metrics"]["r2"])
    assert cells[5] == format_metric(made["metrics"]["sigma_mad"])
    high = text.split("Objects at z > 2:")[1]
    assert re.search(r"\| boosting \| latents \| absolute \| 59 \|", high)
    apart = text.split("Inside and outside")[1].splitlines()[4]
    inside, outside = (float(cell.split("±")[0]) for cell in apart.strip("|").split("|")[4:])
    assert inside < 0.05
    assert outside > 0.9


def test_table_with_all_objects_outside_the_domain():
    z_spec = np.linspace(0.1, 1, 60)
    predictions = {"z_phot": 1.5 * z_spec + 0.3, "is_outside_domain": np.ones(60, dtype=bool)}
    key = RowKey(method="network", features="model", loss="absolute")
    made = make_row(key, predictions, z_spec, np.full(60, 22.5), num_train=30, seconds=1.0)
    cells = markdown_table({"rows": [made]}).split("Inside and outside")[1].splitlines()[4].split("|")
    assert [cell.strip() for cell in cells[4:6]] == ["60", "–"]
    assert float(cells[6].split("±")[0]) == pytest.approx(1.0)


def test_latex_contains_the_same_metrics(row):
    made, _, _ = row
    text = latex_table({"rows": [made]})
    assert f"${made['metrics']['sigma_mad']['value']:.3f} \\pm" in text
    assert text.count("&") == 2 * 8


def test_latex_escapes_names(row):
    made, _, _ = row
    text = latex_table({"rows": [{**made, "method": r"\input{/etc/passwd}", "features": "a & b%_$"}]})
    assert r"\textbackslash{}input\{/etc/passwd\} & a \& b\%\_\$" in text
