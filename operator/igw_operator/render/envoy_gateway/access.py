"""Tokens in Envoy Gateway's words: it reads the Secrets itself, so that the operator needs no right to any. Pure."""

from typing import Any

from igw_api import wire
from igw_api.objects import Key
from igw_operator.plan.model import Guard, Guards, Site
from igw_operator.render.envoy_gateway.names import Names
from igw_operator.render.errors import CHALLENGE, UNAUTHORIZED


def security_policy(site: Site, pool: Key, guards: Guards, names: Names) -> Key | None:
    """The SecurityPolicy on which a pool depends: its route's own, or that of the listener. None: on none."""
    if pool in guards.pools:
        return names.route(site, pool)
    return names.site(site) if site.gateway in guards.gateways else None


def api_keys(guard: Guard) -> dict[str, Any]:
    """What a SecurityPolicy says. A Secret that is missing makes Envoy Gateway refuse every request."""
    return {
        "apiKeyAuth": {
            "credentialRefs": [{"group": "", "kind": "Secret", "name": key.name} for key in guard.secrets],
            "extractFrom": [{"headers": list(wire.CREDENTIAL_HEADERS)}],  # it takes "Bearer " away
            "sanitize": True,
            "forwardClientIDHeader": wire.CLIENT_HEADER,
        }
    }


def refusal() -> dict[str, Any]:
    """What a BackendTrafficPolicy says, so that those without a token are answered as OpenAI's clients expect."""
    return {
        "responseOverride": [
            {
                "match": {"statusCodes": [{"type": "Value", "value": 401}]},
                "source": "Local",  # an engine's own 401 stays
                "response": {
                    "contentType": "application/json",
                    "body": {"type": "Inline", "inline": UNAUTHORIZED},
                    "header": {"set": [{"name": "www-authenticate", "value": CHALLENGE}]},
                },
            }
        ]
    }
