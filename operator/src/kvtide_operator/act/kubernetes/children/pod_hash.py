"""A hash of all in a pod template that only a restart can change."""

import hashlib
import json
from typing import Final

from kvtide_operator.act.kubernetes.children.names import Manifest
from kvtide_operator.world.kinds import TEMPLATE_HASH

HASH_DIGITS: Final = 16


def template_hash(template: Manifest) -> str:
    """16 hexadecimal digits of SHA-256 over the template without sizes and without the hash itself.

    Equal content has an equal hash whatever the order of its keys, in every version of the operator. Sizes
    change in place (``pods/resize``), so that no size ever restarts a node.
    """
    metadata = template["metadata"]
    notes = {key: text for key, text in metadata.get("annotations", {}).items() if key != TEMPLATE_HASH}
    containers = [
        {key: part for key, part in container.items() if key != "resources"}
        for container in template["spec"]["containers"]
    ]
    lasting = {
        **template,
        "metadata": {**metadata, "annotations": notes},
        "spec": {**template["spec"], "containers": containers},
    }
    text = json.dumps(lasting, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
