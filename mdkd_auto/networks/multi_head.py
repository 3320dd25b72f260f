"""A network for several data sets: a shared encoder and one head per data set."""

from torch import nn

from mdkd_auto.networks.model import Encoder, Model


class MultiHeadModel(nn.Module):
    """A shared encoder with one head a data set."""

    def __init__(self, encoder: Encoder, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({_module_name(dataset): head for dataset, head in heads.items()})

    def of(self, dataset: str) -> Model:
        """Encoder and the head of ``dataset``, sharing the weights."""
        return Model(self.encoder, self.heads[_module_name(dataset)])


def _module_name(dataset: str) -> str:
    """A module's name holds no dot; a data set's may (Dataset012_v1.5). Numbers keep data sets apart."""
    return dataset.replace(".", "_")
