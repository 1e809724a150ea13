"""Registries of the classes that a `type:` field in YAML chooses from."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, Union, get_args

import pydantic

from jaxdistill.errors import UserError, did_you_mean

_Class = TypeVar("_Class", bound=type)


class Registry:
    """Registry of classes, by the value of their literal `type` field.

    Args:
        kind: Name of such a class in error messages ("objective").
        package: Package whose modules register classes. All are imported at first use, so that a
            new file is a new choice and no other file changes.
    """

    def __init__(self, kind: str, *, package: str):
        self.kind = kind
        self.package = package
        self._classes: dict[str, type] = {}

    def register(self, cls: _Class) -> _Class:
        """Register a class under the value of its `type: Literal[...]` field (class decorator)."""
        (name,) = get_args(cls.__annotations__["type"])
        if name in self._classes:
            raise ValueError(f"two classes are called {self.kind} `{name}`")
        self._classes[name] = cls
        return cls

    @property
    def union(self) -> Any:
        """Annotation of a config field that holds an instance of one of the classes."""
        classes = tuple(self[name] for name in self)
        if len(classes) == 1:
            return classes[0]
        return Annotated[Union[classes], pydantic.Field(discriminator="type")]  # noqa: UP007

    def __getitem__(self, name: str) -> type:
        if name not in self._discover():
            raise UserError(f"no {self.kind} is called `{name}`.{did_you_mean(name, list(self))}")
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._discover()))

    def _discover(self) -> dict[str, type]:
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return self._classes
