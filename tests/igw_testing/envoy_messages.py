"""Envoy's complete messages, as the package `envoy-data-plane` generates them: the other opinion on what bytes mean.

Imported here once, because its classes are declared in a way that newer versions of pydantic warn of.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from envoy_data_plane.envoy.config.core import v3 as core
    from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as filters
    from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
    from envoy_data_plane.envoy.type import v3 as types

__all__ = ["core", "ext_proc", "filters", "types"]
