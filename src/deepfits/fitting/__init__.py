"""The best fit of a latent to an image (M19 §2.3), its uncertainty, and what it predicts."""

from deepfits.fitting.bestfit import fit as fit
from deepfits.fitting.engine import Fit as Fit
from deepfits.fitting.engine import Status as Status
from deepfits.fitting.objective import AmplitudePrior as AmplitudePrior
