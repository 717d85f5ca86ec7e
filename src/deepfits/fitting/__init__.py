"""The best fit of a latent to an image (M19 §2.3), its uncertainty, and what it predicts."""
