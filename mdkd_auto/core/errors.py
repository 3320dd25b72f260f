"""User-facing exceptions. Each message gives what was found, where, what was expected and how to fix it."""


class MdkdError(Exception):
    """Base of all errors that the user can fix; the command line prints the message without a traceback."""


class DatasetError(MdkdError):
    """A raw data set is missing, malformed or unusable."""


class ImageError(MdkdError):
    """An image or mask file cannot be read, or does not fit its case."""

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind  # of data.problems.KINDS


class MissingPackageError(MdkdError):
    """An optional package is not installed; the message gives the line that installs it."""


class PlanError(MdkdError):
    """A plan is impossible, missing, or does not match the data."""


class SettingsError(MdkdError):
    """A setting is unknown or has a value that is not allowed."""


class TrainingError(MdkdError):
    """Training cannot go on: NaN loss, missing inputs, a batch of one that does not fit."""


class PredictionError(MdkdError):
    """A model cannot be found, an image does not fit it, or its prediction is NaN."""
