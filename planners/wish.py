"""What is asked of a plan, and what an earlier one decided."""

from typing import NamedTuple

from mdkd_auto.records import ConfigurationPlan, Plan, Triple


class Wish(NamedTuple):
    """What the user wants of a plan; ``kept``: the earlier plan, where it is not to be made anew."""

    memory_gb: float
    spacing_mm: Triple | None = None  # z, y, x of the transposed axes
    input_size: int | None = None  # voxels a side, of whole images
    kept: Plan | None = None

    def earlier(self) -> dict[str, ConfigurationPlan]:
        """What was planned before for as much memory, by configuration."""
        if self.kept is None or self.kept.memory_gb != self.memory_gb:
            return {}
        return {part.configuration: part for part in self.kept.configurations}

    def side(self, configuration: str) -> int | None:
        """Voxels a side that are asked for, or were before."""
        earlier = self.earlier().get(configuration)
        return earlier.patch_size[0] if earlier is not None and self.input_size is None else self.input_size
