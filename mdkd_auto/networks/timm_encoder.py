"""Encoders of the timm library: models that yield 2-D feature maps, such as efficientnet_b0."""

from functools import cache

import timm
import torch
from torch import Tensor, nn

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.model import Encoder


def check_name(name: str) -> None:
    """Raise SettingsError, with similar names, for a network unknown to timm."""
    if name not in timm.list_models():
        close = ", ".join(timm.list_models(f"*{name.split('_', maxsplit=1)[0]}*")[:8]) or "see timm.list_models()"
        raise SettingsError(f"network {name!r}: neither ours nor timm's; close: {close}")


@cache
def check_size(name: str, size: tuple[int, ...]) -> None:
    """Raise SettingsError for a network that rejects this image size or whose maps contradict its metadata.

    Runs one empty image; the random state is restored.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        encoder = TimmEncoder(name).eval()
        made_for = encoder.body.default_cfg.get("input_size", ())[1:]  # type: ignore[operator, union-attr]
        try:
            shapes = [tuple(level.shape[:2]) for level in encoder(torch.zeros(1, 1, *size)) if level.ndim == 4]
            why = f"its maps have channels {[shape[-1] for shape in shapes]}, expected {list(encoder.channels)}"
        except Exception as error:  # timm's models raise many types
            shapes, why = [], str(error)
    if shapes == [(1, channels) for channels in encoder.channels]:
        return
    own, given = (" x ".join(map(str, sides)) for sides in (made_for, size))
    remedy = "take another network"
    if made_for and made_for != size and made_for[0] % 32 == 0:
        remedy = f"plan with --input-size {made_for[0]}, or {remedy}"
    raise SettingsError(f"network {name!r}: made for {own} pixels, fails for the plan's {given} ({why}); {remedy}")


class TimmEncoder(Encoder):
    """One map per level of a timm model, with random weights or (``download``) weights fetched by timm's loader.

    Raises SettingsError for an unknown name, a model without feature maps, and a failed download.
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
        """(B, C, y, x) -> one map per level, (B, channels[i], y / stride, x / stride)."""
        maps: list[Tensor] = self.body(x)
        if getattr(self.body, "output_fmt", None) == "NHWC":
            return [level.movedim(3, 1) for level in maps]  # (B, y, x, C) -> (B, C, y, x)
        return maps
