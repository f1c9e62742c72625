"""What a call to the runtime can end with besides an answer."""


class NotFound(Exception):
    """No such sandbox, container or image."""


class Unsupported(Exception):
    """Something that this runtime does not offer."""


class Failed(Exception):
    """It was tried and went wrong; the message says how."""
