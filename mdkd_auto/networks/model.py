"""A network is an encoder and a head. The method touches only encoders, a task only heads."""

from torch import Tensor, nn


class Encoder(nn.Module):
    """The interface of every encoder: forward(x (B, C, *S)) -> one map per level, (B, channels[i], *S / strides[i]).

    The last level is the bottleneck. Tuples within ``strides`` and ``kernel_sizes`` have one entry per spatial axis.
    """

    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]  # cumulative, relative to the input
    kernel_sizes: tuple[tuple[int, ...], ...]  # suited to the level's voxels: flat where slices are thick
    rate: float = 1.0  # learning rate relative to the rest of the network


class Model(nn.Module):
    """An encoder and the head that reads its maps."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> the head's output: logits (B, K, *S) for segmentation."""
        logits: Tensor = self.head(self.features(x))
        return logits

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> one map per level, the bottleneck last."""
        maps: list[Tensor] = self.encoder(x)
        return maps


def paired_levels(student: Encoder, teacher: Encoder) -> list[tuple[int, int]]:
    """Levels (student's, teacher's) of equal stride, and the two bottlenecks. Networks of one kind pair level by level.

    Bottlenecks of different strides pair too: eq. (12) resizes the student's map.
    """
    places = {stride: level for level, stride in enumerate(teacher.strides[:-1])}
    pairs = [(level, places[stride]) for level, stride in enumerate(student.strides[:-1]) if stride in places]
    return [*pairs, (len(student.strides) - 1, len(teacher.strides) - 1)]
