"""Who needs a token, and which Secrets are missing for that. Pure.

A guard without a Secret that can be read lets nobody pass: what is wrong must never open a gate.
"""

from collections.abc import Iterator

from igw_api.access import digests, useless
from igw_api.objects import Key
from igw_api.objectset import ObjectSet
from igw_api.resolution import winning_access
from igw_operator.plan.attachments import in_force
from igw_operator.plan.model import Condition, Guard, Guards


def find_guards(objects: ObjectSet) -> Guards:
    """Of pools and Gateways, there or not: those that a policy asks tokens for."""
    policies = [one for one in objects.policies.values() if one.access]
    everybody = objects.policies.values()
    pools = {pool for one in policies for pool in one.pools}
    gateways = {gateway for one in policies for gateway in one.gateways}
    return Guards(
        {key: _guard(found, objects) for key in sorted(pools) if (found := winning_access(key, everybody))},
        {
            key: _guard(found, objects)
            for key in sorted(gateways)
            if (found := winning_access(key, everybody, gateway=True))
        },
    )


def _guard(secrets: tuple[Key, ...], objects: ObjectSet) -> Guard:
    known = [objects.secrets[key] for key in secrets if key in objects.secrets]
    return Guard(secrets, tuple(digests(known).items()))


def secret_conditions(objects: ObjectSet) -> Iterator[Condition]:
    """What policies in force miss in their Secrets. For those who read the Secrets themselves."""
    for policy in objects.policies.values():
        if not policy.access or not in_force(policy, objects):
            continue
        told = [f"no Secret {key}; its tokens let nobody pass" for key in policy.access if key not in objects.secrets]
        for secret in (objects.secrets[key] for key in policy.access if key in objects.secrets):
            told += [f"Secret {secret.key}: {client} has no token that can be sent" for client in useless(secret)]
        if told:
            yield Condition("InferencePoolPolicy", policy.key, "ResolvedRefs", False, "InvalidSecret", "; ".join(told))
