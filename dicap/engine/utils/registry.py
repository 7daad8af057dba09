"""Names of classes and functions that a configuration can choose."""

from collections.abc import Callable
from typing import Any

__all__ = ["Registry"]


class Registry:
    """Maps the names of classes or functions to themselves. `@REGISTRY.register()` above a definition adds it.

    Args:
        name: what is registered here; appears in errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._obj_map: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Adds obj under its own name; without obj, returns a decorator that does so.

        Raises:
            KeyError: the name is taken by another object and force is not set.
        """
        if obj is None:
            return self._decorator(force)
        name = obj.__name__
        if name in self._obj_map and not force:
            taken = self._obj_map[name]
            raise KeyError(
                f"{name} was already registered in {self._name}, by {taken.__module__}; {obj.__module__} "
                "cannot register it again: import only one of the two, or rename one"
            )
        self._obj_map[name] = obj
        return obj

    def _decorator(self, force: bool) -> Callable[[Any], Any]:
        return lambda obj: self.register(obj, force=force)

    def get(self, name: str) -> Any:
        """The object of that name.

        Raises:
            KeyError: nothing is registered under that name.
        """
        if name not in self._obj_map:
            there = ", ".join(sorted(self._obj_map)) or "none"
            raise KeyError(f"{name} is not registered in {self._name}; there are: {there}")
        return self._obj_map[name]

    def registered_names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._obj_map)
