"""What is asked of a plan, and what an earlier one decided."""

from typing import NamedTuple

from mdkd_auto.core.records import ConfigurationPlan, IntTriple, Plan, Triple


class Wish(NamedTuple):
    """What the user wants of a plan; ``kept``: the earlier plan, where it is not to be made anew."""

    memory_gb: float
    spacing_mm: Triple | None = None  # z, y, x of the transposed axes
    patch_size: IntTriple | None = None  # voxels z, y, x of the transposed axes, of segmentation
    input_size: int | None = None  # voxels a side, of whole images
    kept: Plan | None = None

    def earlier(self) -> dict[str, ConfigurationPlan]:
        """What was planned before for as much memory, by configuration."""
        if self.kept is None or self.kept.memory_gb != self.memory_gb:
            return {}
        return {part.configuration: part for part in self.kept.configurations}

    def kept_side(self, configuration: str) -> int | None:
        """Voxels a side of whole images in the earlier plan, whatever memory that was for: it does not decide them."""
        parts = () if self.kept is None else self.kept.configurations
        return next((part.patch_size[0] for part in parts if part.configuration == configuration), None)
