"""What the model room raises when the user's configuration cannot work."""


class ConfigError(ValueError):
    """A model configuration that cannot be built; the message is one line naming the field, what was found
    and what is expected.
    """
