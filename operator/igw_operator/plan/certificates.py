"""Which certificates listeners show to clients, and which of them are missing. Pure.

A listener that asks for TLS is never opened without it.
"""

import hashlib
from collections.abc import Iterable, Iterator

from igw_api.certificate import fault, pem
from igw_api.objects import Gateway, Key, Listener
from igw_api.objectset import ObjectSet
from igw_operator.plan.model import Certificate, Condition, Terminated

DIGEST_LENGTH = 16


def openable(listeners: Iterable[Listener], objects: ObjectSet) -> list[Listener]:
    """Those that have all certificates that they ask for."""
    return [one for one in listeners if not list(_faults(one, objects))]


def terminated(listeners: Iterable[Listener], objects: ObjectSet) -> tuple[Terminated, ...]:
    """What the openable listeners of one port show, by host name."""
    return tuple(
        Terminated(one.hostname, tuple(_certificate(key, objects) for key in one.certificates))
        for one in listeners
        if one.certificates
    )


def _certificate(secret: Key, objects: ObjectSet) -> Certificate:
    digest = hashlib.sha256(pem(objects.secrets[secret]).encode()).hexdigest()
    return Certificate(secret, digest[:DIGEST_LENGTH])


def certificate_conditions(objects: ObjectSet) -> Iterator[Condition]:
    """What Gateways miss in their Secrets. For those who read the Secrets themselves."""
    for gateway in objects.gateways.values():
        told = [f"listener {one.name}: {why}" for one in gateway.listeners for why in _faults(one, objects)]
        if told:
            yield Condition("Gateway", gateway.key, "Accepted", False, "InvalidCertificateRef", "; ".join(told))


def _faults(listener: Listener, objects: ObjectSet) -> Iterator[str]:
    for key in listener.certificates:
        secret = objects.secrets.get(key)
        if secret is None:
            yield f"no Secret {key} for its certificate; add it, with tls.crt and tls.key"
        elif why := fault(secret):
            yield f"Secret {key} {why}"


def secrets_of(gateway: Gateway) -> frozenset[Key]:
    """The Secrets that its listeners name."""
    return frozenset(key for one in gateway.listeners for key in one.certificates)
