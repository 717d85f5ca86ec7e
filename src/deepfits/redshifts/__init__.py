"""Photometric redshifts from features: regression, baselines, metrics and p(z) (M19 §3.3)."""
