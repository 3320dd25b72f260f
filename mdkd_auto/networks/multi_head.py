"""A network for several data sets: a shared encoder and one head per data set."""

from torch import nn

from mdkd_auto.networks.model import Encoder, Model


class MultiHeadModel(nn.Module):
    """A shared encoder with one head per data set."""

    def __init__(self, encoder: Encoder, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({_module_name(dataset): head for dataset, head in heads.items()})

    def of(self, dataset: str) -> Model:
        """Return the encoder and the head of ``dataset``, sharing the weights."""
        return Model(self.encoder, self.heads[_module_name(dataset)])


def _module_name(dataset: str) -> str:
    """Module names must not contain dots; data set names may (Dataset012_v1.5). The numbers keep them unique."""
    return dataset.replace(".", "_")
