"""Losses, the adversarial loop, checkpoints, health (M19 §2.2)."""
