"""The output channels of a data set: which label values each stands for, and what is written for it."""

from collections.abc import Iterator

from mdkd_auto.core.limits import Fault, number, numbers
from mdkd_auto.core.records import Dataset, Record
from mdkd_auto.datasets.task_data import TASK_DATA

MOST_CLASSES, LARGEST_LABEL = 1000, 65535  # labels are written in 16 bits at most
FOREGROUND = "foreground"


class ClassChannel(Record, frozen=True, kw_only=True):
    """One output channel: the label values it stands for, and the value written for it."""

    name: str
    values: tuple[int, ...]
    written: int


class Classes(Record, frozen=True, kw_only=True):
    """The output channels of one data set."""

    channels: tuple[ClassChannel, ...]
    regions: bool  # overlapping: painted in order instead of the most probable
    ignore: int | None


def classes_of(dataset: Dataset, keep_classes: bool) -> Classes:
    """One foreground of all classes, or the data set's own; of other tasks always its own."""
    if not keep_classes and TASK_DATA[dataset.task].masks:
        values = tuple(sorted({value for group in dataset.labels.values() for value in group}))
        return Classes(
            channels=(ClassChannel(name=FOREGROUND, values=values, written=1),),
            regions=False,
            ignore=dataset.ignore_label,
        )
    regions = bool(dataset.regions_class_order)
    written = dataset.regions_class_order if regions else tuple(values[0] for values in dataset.labels.values())
    channels = tuple(
        ClassChannel(name=name, values=values, written=value)
        for (name, values), value in zip(dataset.labels.items(), written, strict=True)
    )
    return Classes(channels=channels, regions=regions, ignore=dataset.ignore_label)


def faults_of_classes(classes: Classes, masks: bool, where: str) -> Iterator[Fault]:
    """Of output channels; ``masks``: their values are written into masks."""
    channels = classes.channels[:MOST_CLASSES]
    yield from number(f"{where}, their number,", len(classes.channels), 1, MOST_CLASSES)
    for channel in channels:
        values = (channel.written, *channel.values)
        yield from numbers(f"{where}, values of {channel.name}", values, len(values), 0, LARGEST_LABEL)
        if not channel.name.isprintable():
            yield Fault(where, channel.name, "a name without control characters")
        if not channel.values:
            yield Fault(f"{where}, values of {channel.name}", channel.values, "one or more")
        if masks and channel.written == 0:
            yield Fault(f"{where}, written of {channel.name}", 0, "1 or more: 0 is the background")
    names: list[object] = [channel.name for channel in channels]
    written: list[object] = [] if classes.regions else [channel.written for channel in channels]
    for field, found in (("name", names), ("written", written)):
        if len(set(found)) < len(found):
            yield Fault(f"{where}, {field} of each,", found, "each once")
