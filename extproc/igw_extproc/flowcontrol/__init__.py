"""Whether a request may be placed now. Today: sheddable work is refused while its pool is saturated."""
