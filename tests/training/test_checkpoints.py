"""Checkpoints that are damaged, or that the system refuses to read."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from mdkd_auto.core.errors import TrainingError
from mdkd_auto.core.files import ReadError
from mdkd_auto.training.checkpoints import load_training, load_weights


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "KeyError"),
        ({"training_state": "{"}, "not valid JSON"),
        ({"training_state": '{"update": 3}'}, "learning_rates"),
        ({"training_state": '{"learning_rates": []}'}, "ValueError"),
    ],
)
def test_a_damaged_training_state(tmp_path: Path, metadata: dict[str, str] | None, words: str) -> None:
    model = nn.Linear(2, 1)
    tensors = {f"network.{name}": value.detach().clone() for name, value in model.state_dict().items()}
    (tmp_path / "latest.safetensors").write_bytes(save(tensors, metadata))
    with pytest.raises(TrainingError, match="delete it and run the training command again: the job begins") as error:
        load_training(tmp_path / "latest.safetensors", model, torch.optim.AdamW(model.parameters()))
    assert words in str(error.value)


def test_weights_that_the_system_refuses_are_not_called_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"anything")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("mdkd_auto.core.files.open", refuse, raising=False)
    with pytest.raises(ReadError, match=r"Too many open files\); too many files are open: raise the limit"):
        load_weights(path, nn.Linear(2, 1))
