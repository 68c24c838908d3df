"""What can go wrong with a model's files; every message names the file or tensor and says what to do."""


class ModelError(Exception):
    """Base of every error about a model's files or configuration."""


class UnsupportedModel(ModelError):
    """The configuration describes an architecture, or a feature of one, that is not implemented."""


class CheckpointError(ModelError):
    """A checkpoint is missing, unreadable, or does not hold exactly the tensors its configuration calls for."""


class TokenizerError(ModelError):
    """A tokenizer file is missing, unreadable, or lacks what the chat grammar needs."""
