"""The error for a configuration of the model that cannot work."""


class ConfigError(ValueError):
    """A model configuration that cannot be built.

    The message is one line naming the field, its value and what is expected.
    """
