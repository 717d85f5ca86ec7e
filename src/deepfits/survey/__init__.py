"""Real sky in: bands, planes, stack, detect, cutouts, store, normalisation."""
