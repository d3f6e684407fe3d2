"""Errors that are meant for the user: hosts and the command line show their text as it is."""


class TrainerError(Exception):
    """What went wrong: the file or setting, its value, what was expected, what to do about it."""


class ConfigError(TrainerError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another one."""


class DatasetError(TrainerError):
    """The folder of pictures or its captions cannot be used."""


class CheckpointError(TrainerError):
    """The base model's file is missing, damaged, of another kind or of an unsupported family."""


class FileError(TrainerError):
    """A file that we write or read back is missing, damaged, in the way, or cannot be written."""


class HostChangedError(TrainerError):
    """The host's own model is not as it was when the training borrowed it."""
