"""Whether a file's tensors are a model's: everything that is wrong with them, at once."""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

import numpy as np

from jaxdistill.errors import UserError, nearest
from jaxdistill.hub.source import Source
from jaxdistill.hub.tensors import SAFETENSORS_DTYPES, LazyTensor

_LISTED = 20
_HEAD = "lm_head.weight"


def fitting(source: Source) -> dict[str, LazyTensor]:
    """The tensors that the model's table asks for.

    Raises:
        UserError: Tensors are missing, unexpected, of the wrong shape or of an unknown dtype.
    """
    tensors = _prefixed(source)
    expected = {
        name: rule.shape
        for rule in source.family.rules(source.config)
        for _, name in rule.names(source.config.num_layers)
    }
    problems = [
        *_listed(_missing_or_unexpected(source, tensors, expected)),
        *_listed(_wrong_shapes(tensors, expected)),
        *_listed(_unknown_dtypes(tensors, expected)),
    ]
    if not problems:
        problems = list(_untied_head(source, tensors))
    if problems:
        raise UserError(*(f"{source.path}: {problem}" for problem in problems))
    return {name: tensors[name] for name in expected}


def _prefixed(source: Source) -> dict[str, LazyTensor]:
    """A bare body's file (GPT-2's on the hub) leaves out what the causal model's begins with."""
    prefix = source.family.prefix
    if any(name.startswith(prefix) for name in source.tensors):
        return dict(source.tensors)
    return {
        name if name == _HEAD else prefix + name: tensor for name, tensor in source.tensors.items()
    }


def _missing_or_unexpected(
    source: Source, tensors: Mapping[str, LazyTensor], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    ignored = [*source.family.ignored, *((_HEAD,) if source.config.has_tied_head else ())]
    unexpected = [
        name
        for name in tensors
        if name not in expected and not any(fnmatchcase(name, pattern) for pattern in ignored)
    ]
    for name, shape in expected.items():
        if name not in tensors:
            yield f"tensor {name} {list(shape)} is missing.{nearest(name, unexpected)}"
    for name in unexpected:
        yield f"tensor {name} {list(tensors[name].shape)} is none of this model's."


def _wrong_shapes(
    tensors: Mapping[str, LazyTensor], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != shape:
            came = list(tensors[name].shape)
            yield f"tensor {name} has shape {came}, but config.json makes it {list(shape)}."


def _unknown_dtypes(
    tensors: Mapping[str, LazyTensor], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    dtypes = SAFETENSORS_DTYPES.values()
    for name in expected:
        if name in tensors and tensors[name].dtype not in dtypes:
            yield (
                f"tensor {name} is stored as {tensors[name].dtype}, a quantised format; "
                f"expected one of {', '.join(dtypes)}."
            )


def _untied_head(source: Source, tensors: Mapping[str, LazyTensor]) -> Iterator[str]:
    """A head that the config ties to the embedding may be in the file, but must be the same."""
    if not source.config.has_tied_head or _HEAD not in tensors:
        return
    embedding = next(
        rule.name for rule in source.family.rules(source.config) if rule.paths == (("embedding",),)
    )
    if not np.array_equal(tensors[_HEAD].read(), tensors[embedding].read()):
        yield (
            f"tensor {_HEAD} differs from {embedding}, but config.json ties them. If the model "
            "was trained with a head of its own, set `tie_word_embeddings` to false."
        )


def _listed(problems: Iterable[str]) -> list[str]:
    problems = list(problems)
    more = len(problems) - _LISTED
    return [*problems[:_LISTED], *([f"... and {more} more such tensors."] if more > 0 else [])]
