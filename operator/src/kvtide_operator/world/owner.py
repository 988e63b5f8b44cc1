"""Whose a Kubernetes object is: by its owner's uid, never by name or labels, which anybody can write."""

from collections.abc import Container, Mapping
from typing import Any

from kvtide_operator.world.kinds import TIERED_CACHE, Raw


def owner_reference(name: str, uid: str, *, controller: bool = True) -> dict[str, Any]:
    """What makes an object go with a TieredCache; its controller looks after it, too."""
    reference: dict[str, Any] = {
        "apiVersion": TIERED_CACHE.api_version,
        "kind": TIERED_CACHE.kind,
        "name": name,
        "uid": uid,
    }
    return {**reference, "controller": True, "blockOwnerDeletion": False} if controller else reference


def controller_of(raw: Raw) -> Mapping[str, Any] | None:
    """The one owner that looks after an object; None for one that nobody does."""
    owners = raw["metadata"].get("ownerReferences", ())
    return next((owner for owner in owners if owner.get("controller")), None)


def controlled_by(raw: Raw, uid: str) -> bool:
    """Whether the object with this uid looks after another one."""
    controller = controller_of(raw)
    return controller is not None and controller["uid"] == uid


def owned_by(raw: Raw, uids: Container[str]) -> bool:
    """Whether an object goes with one of those that have these uids, as its controller or otherwise."""
    return any(owner["uid"] in uids for owner in raw["metadata"].get("ownerReferences", ()))


def not_ours(raw: Raw, uid: str) -> str:
    """Whose an object is that has one of our names, but not the cache with this uid as its controller."""
    what = f"{raw['kind']} {raw['metadata']['name']}"
    controller = controller_of(raw)
    if controller is None:
        return (
            f"{what} was there before and is nobody's that we know: it is left as it is; "
            "delete it, or give the cache another name"
        )
    owner = f"{controller['kind']} {controller['name']}"
    if controller["kind"] == TIERED_CACHE.kind:
        return (
            f"{what} belongs to {owner} of uid {controller['uid']}: it is left as it is; was it restored "
            f"from a backup, write the uid {uid} into its ownerReferences; else give the cache another name"
        )
    return f"{what} belongs to {owner}: it is left as it is; give the cache another name"
