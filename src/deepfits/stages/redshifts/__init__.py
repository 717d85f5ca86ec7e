"""The redshift stages, one per module."""
