"""Registration of dataclasses as pytrees."""

from dataclasses import fields
from typing import Any, TypeVar

import jax

_Class = TypeVar("_Class", bound=type)


def pytree(cls: _Class) -> _Class:
    """Register a dataclass as a pytree; fields with `metadata={"static": True}` are static.

    Unflattening does not call `__init__`, as `jax.tree_util.register_dataclass` would: JAX and
    grain also put shardings, shapes and placeholders where the annotations say arrays.
    """
    static = tuple(f.name for f in fields(cls) if f.metadata.get("static"))
    children = tuple(f.name for f in fields(cls) if not f.metadata.get("static"))

    def flatten_with_keys(node: Any) -> tuple[Any, Any]:
        values = tuple((jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in children)
        return values, tuple(getattr(node, name) for name in static)

    def unflatten(static_values: Any, values: Any) -> Any:
        node = object.__new__(cls)
        for name, value in zip(children + static, (*values, *static_values), strict=True):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
    return cls
