"""The exceptions a user can see. Each message says what was found, where, what was expected and what to do."""


class MdkdError(Exception):
    """Base of every error that is the user's to mend; the command line prints its message without a traceback."""


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
    """A plan cannot be made, is missing, or does not fit the data."""


class SettingsError(MdkdError):
    """A setting is unknown or has a value that is not allowed."""


class TrainingError(MdkdError):
    """Training cannot go on: NaN loss, missing inputs, a batch of one that does not fit."""


class PredictionError(MdkdError):
    """A model cannot be found, an image does not fit it, or its answer is none: NaN."""
