"""Encoders of the timm library: any of its models that gives feature maps, such as efficientnet_b0."""

import timm
from torch import Tensor, nn

from mdkd_auto.errors import SettingsError
from mdkd_auto.networks.model import Encoder


def check_name(name: str) -> None:
    """Raise SettingsError, with names that are close, for a network that timm does not know."""
    if name not in timm.list_models():
        close = ", ".join(timm.list_models(f"*{name.split('_', maxsplit=1)[0]}*")[:8]) or "see timm.list_models()"
        raise SettingsError(f"network {name!r}: neither ours nor timm's; close: {close}")


class TimmEncoder(Encoder):
    """One map a level of a timm model, with random weights, or (``download``) those that timm's own loader fetches.

    Raises SettingsError for a name that timm does not know, for a model without feature maps, and where weights cannot
    be fetched.
    """

    def __init__(self, name: str, in_channels: int = 1, dropout: float = 0.0, download: bool = False) -> None:
        super().__init__()
        check_name(name)
        try:
            self.body: nn.Module = timm.create_model(
                name, features_only=True, pretrained=download, in_chans=in_channels, drop_rate=dropout
            )
        except OSError as error:
            raise SettingsError(
                f"network {name!r}: timm could not fetch its weights ({error}); give them as a safetensors file"
            ) from error
        except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
            raise SettingsError(f"network {name!r} of timm gives no feature maps ({error}); take another") from error
        self.name = name
        information = self.body.feature_info
        self.channels = tuple(information.channels())  # type: ignore[operator, union-attr]
        self.strides = tuple((step, step) for step in information.reduction())  # type: ignore[operator, union-attr]
        self.kernel_sizes = ((3, 3),) * len(self.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, y, x) -> one map a level, (B, channels[i], y / stride, x / stride)."""
        maps: list[Tensor] = self.body(x)
        return maps
