"""Choose the input channel of each data set: the group's networks read one."""

from collections.abc import Mapping, Sequence

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.records import Dataset, Reason


def choose_channels(
    datasets: Sequence[Dataset], overrides: Mapping[str, str], previous: Mapping[str, str] | None = None
) -> tuple[dict[str, int], list[Reason]]:
    """Return the channel index of each data set: the name all share, otherwise each one's first.

    ``overrides`` take precedence, then the choice of ``previous``, an earlier plan (data set -> channel name).
    """
    earlier = previous or {}
    unknown = sorted(set(overrides) - {dataset.name for dataset in datasets})
    if unknown:
        names = ", ".join(dataset.name for dataset in datasets)
        raise PlanError(f"A channel is given for {', '.join(unknown)}, which the group does not hold ({names})")
    shared = _shared_name(datasets)
    chosen, reasons = {}, []
    for dataset in datasets:
        if dataset.name in overrides:
            index, because = _by_override(dataset, overrides[dataset.name]), "as given"
        elif shared is not None:
            index = [name.lower() for name in dataset.channel_names].index(shared)
            because = "the channel all data sets of the group have"
        else:
            index, because = 0, "no channel is common to the group: its first"
        kept = earlier.get(dataset.name, dataset.channel_names[index])
        if dataset.name not in overrides and kept in dataset.channel_names and kept != dataset.channel_names[index]:
            index, because = dataset.channel_names.index(kept), "kept from the earlier plan (--replan forgets it)"
        if len(dataset.channel_names) > 1:
            because += f" (of {', '.join(dataset.channel_names)})"
        chosen[dataset.name] = index
        name = dataset.channel_names[index]
        reasons.append(Reason(decision=f"{dataset.name}: channel", value=name, because=because))
    return chosen, reasons


def _shared_name(datasets: Sequence[Dataset]) -> str | None:
    lowered = [[name.lower() for name in dataset.channel_names] for dataset in datasets]
    return next((name for name in lowered[0] if all(name in names for names in lowered)), None)


def _by_override(dataset: Dataset, wanted: str) -> int:
    names = [name.lower() for name in dataset.channel_names]
    if wanted.lower() in names:
        return names.index(wanted.lower())
    if wanted.isdigit() and int(wanted) < len(names):
        return int(wanted)
    allowed = ", ".join(f"{index} {name}" for index, name in enumerate(dataset.channel_names))
    raise PlanError(f"{dataset.name} has no channel {wanted}; its channels: {allowed}")
