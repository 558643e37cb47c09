"""The one exception that means: the user gave something that cannot work, and here is what to do."""


class UserError(Exception):
    """Bad input, found before any compute is spent. The message names the key, the value and the remedy."""
