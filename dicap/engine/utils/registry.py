"""Names of classes and functions that a configuration can choose."""

import logging
from functools import partial
from typing import Any

from dicap.engine.utils.tools import check_availability

__all__ = ["Registry"]

_log = logging.getLogger(__name__)


class Registry:
    """Maps the names of classes or functions to themselves. `@REGISTRY.register()` above a definition adds it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._obj_map: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Adds obj under its own name; without obj, returns a decorator that does so.

        Raises KeyError where the name is taken and force is not set.
        """
        if obj is None:
            return partial(self.register, force=force)
        name = obj.__name__
        if name in self._obj_map and not force:
            taken = self._obj_map[name]
            raise KeyError(
                f"{name} was already registered in {self._name}, by {taken.__module__}; {obj.__module__} "
                "cannot register it again: import only one of the two, or rename one"
            )
        self._obj_map[name] = obj
        return obj

    def get(self, name: str) -> Any:
        """The object of that name; raises KeyError where there is none."""
        if name not in self._obj_map:
            names = ", ".join(sorted(self._obj_map)) or "none"
            raise KeyError(f"{name} is not registered in {self._name}; there are: {names}")
        return self._obj_map[name]

    def registered_names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._obj_map)

    def build(self, name: str, message: str, *args: Any, **kwargs: Any) -> Any:
        """The object of that name, called with the arguments; raises ValueError where there is none.

        A message is logged with the name.
        """
        check_availability(name, self.registered_names())
        if message:
            _log.info("%s: %s", message, name)
        return self.get(name)(*args, **kwargs)
