"""What stops a training run. Each message says what was found, where, what was expected and what to do."""


class TrainingError(Exception):
    """The input cannot be used; nothing was written."""
