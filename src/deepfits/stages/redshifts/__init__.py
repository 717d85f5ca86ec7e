"""The stages around redshifts: one file each."""
