"""Other networks by name; none is built in, plugins register theirs."""

import logging
from typing import Any

from dicap.engine.utils import Registry, check_availability

__all__ = ["NETWORK_REGISTRY", "build_network"]

NETWORK_REGISTRY = Registry("NETWORK")
_log = logging.getLogger(__name__)


def build_network(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The network of that name.

    Raises:
        ValueError: none of that name is registered.
    """
    check_availability(name, NETWORK_REGISTRY.registered_names())
    if verbose:
        _log.info("Network: %s", name)
    return NETWORK_REGISTRY.get(name)(**kwargs)
