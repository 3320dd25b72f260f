"""Choose the normalisation of a data set's intensities."""

import numpy as np

from mdkd_auto.core.records import Fingerprint, Normalisation, Reason

HOUNSFIELD_BELOW = -100.0  # a CT in Hounsfield units contains air or fat ...
HOUNSFIELD_ABOVE = 300.0  # ... or bone; 8-bit grey values reach neither
MASK_BELOW_FRACTION = 0.75  # fraction of the image left by cropping: nnU-Net's rule


def choose_normalisation(fingerprint: Fingerprint, channel: int) -> tuple[Normalisation, Reason]:
    """Choose ``ct`` for Hounsfield units with a labelled foreground, else ``zscore``, masked if much was cropped."""
    name = fingerprint.channel_names[channel]
    minimum = min(case.image_minimum[channel] for case in fingerprint.cases)
    maximum = max(case.image_maximum[channel] for case in fingerprint.cases)
    foreground = fingerprint.foreground[channel]
    because = f"channel {name}: each image by its own mean and standard deviation"
    if name.lower() == "ct":
        if not (minimum < HOUNSFIELD_BELOW or maximum > HOUNSFIELD_ABOVE):
            kind = "8-bit grey values" if minimum >= 0 and 1 < maximum <= 255 else f"values {minimum:g} to {maximum:g}"
            because = f"channel {name} holds {kind}, not Hounsfield units: z-score"
        elif foreground is None:
            because = f"channel {name} without labelled foreground: z-score"
        else:
            chosen = Normalisation(
                scheme="ct",
                lower=foreground.percentile_00_5,
                upper=foreground.percentile_99_5,
                mean=foreground.mean,
                std=foreground.std,
            )
            because = (
                f"channel {name} in Hounsfield units ({minimum:g} to {maximum:g}): clip to the foreground's 0.5 and "
                f"99.5 percentiles {chosen.lower:.4g} to {chosen.upper:.4g}, then its mean {chosen.mean:.4g} "
                f"and standard deviation {chosen.std:.4g}"
            )
            return chosen, _reason(fingerprint, "ct", because)
    fraction = float(np.median([case.nonzero_fraction for case in fingerprint.cases]))
    masked = fraction < MASK_BELOW_FRACTION
    if masked:
        because += f"; over non-zero voxels only, as cropping leaves {fraction:.0%} of an image"
    return Normalisation(scheme="zscore", masked=masked), _reason(fingerprint, "zscore", because)


def _reason(fingerprint: Fingerprint, scheme: str, because: str) -> Reason:
    return Reason(decision=f"{fingerprint.dataset}: normalisation", value=scheme, because=because)
