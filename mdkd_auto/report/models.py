"""The models of a table's columns, loaded to be looked at."""

import torch
from torch import nn

from mdkd_auto.execution.run_folder import load_model, read_run
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.report.comparison import Row
from mdkd_auto.training.loop import find_device


def column_model(experiment: Experiment, row: Row, column: str, replicate: int = 0) -> Model:
    """The best weights of a column's replicate, in evaluation mode. Raises MdkdError where they are gone."""
    folder = experiment.root.results / row.folders[column][replicate]
    model = load_model(folder, read_run(folder))
    if isinstance(model, MultiHeadModel):
        model = model.of(row.target)
    nn.Module.to(model, find_device(experiment.settings.device))
    return model.eval()


def batch_of_one(image: torch.Tensor, model: Model) -> torch.Tensor:
    """An image S as (1, 1, *S) where the model is."""
    return image[None, None].to(next(model.parameters()).device)
