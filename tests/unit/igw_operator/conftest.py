"""Imports the renderer before any test does: the protobuf classes it uses warn of their own use of pydantic."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import igw_operator.render.bootstrap  # noqa: F401
