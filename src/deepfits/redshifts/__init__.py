"""Redshifts from features: regression, baselines, metrics, p(z) (M19 §3.3)."""
