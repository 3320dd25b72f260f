"""The classifier head: global average pooling of the last map, dropout, a linear layer."""

from torch import Tensor, nn


class ClassifierHead(nn.Module):
    """Maps, the last one (B, channels, *S), to logits (B, outputs). No softmax: losses and prediction apply it."""

    def __init__(self, channels: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, outputs)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """(B, outputs)."""
        logits: Tensor = self.linear(self.dropout(maps[-1].flatten(2).mean(2)))
        return logits
