"""Simulated skies: population, spectra, profiles, scenes."""
