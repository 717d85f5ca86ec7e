"""The simulated sky: population, spectra, drawing, scenes."""
