"""The user's request for a plan, and the decisions of an earlier plan."""

from typing import NamedTuple

from mdkd_auto.core.records import ConfigurationPlan, IntTriple, Plan, Triple


class Wish(NamedTuple):
    """What the user requests of a plan; ``kept``: the earlier plan, unless it is replanned."""

    memory_gb: float
    spacing_mm: Triple | None = None  # z, y, x of the transposed axes
    patch_size: IntTriple | None = None  # voxels z, y, x of the transposed axes, for segmentation
    input_size: int | None = None  # voxels per side, for whole images
    kept: Plan | None = None

    def earlier(self) -> dict[str, ConfigurationPlan]:
        """Earlier configurations planned for the same memory, by name."""
        if self.kept is None or self.kept.memory_gb != self.memory_gb:
            return {}
        return {part.configuration: part for part in self.kept.configurations}

    def kept_side(self, configuration: str) -> int | None:
        """Voxels per side of whole images in the earlier plan; independent of its memory."""
        parts = () if self.kept is None else self.kept.configurations
        return next((part.patch_size[0] for part in parts if part.configuration == configuration), None)
