"""Labels, known redshifts or values of another target: reading them, and matching them to objects."""

from deepfits.redshifts.labels.matching import Match, match_labels
from deepfits.redshifts.labels.reading import (
    Labels,
    add_standard_names,
    is_text,
    read_estimates,
    read_labels,
    read_table_of_estimates,
)
