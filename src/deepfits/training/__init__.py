"""Adversarial training (M19 §2.2): losses, training loop, checkpoints and diagnostics."""
