"""Validation of a file's tensors against a model: all problems in one error."""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

import numpy as np

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.hub.source import Source
from jaxdistill.hub.tensors import SAFETENSORS_DTYPES, LazyTensor

_MAX_LISTED = 20
_LM_HEAD_NAME = "lm_head.weight"


def validate_tensors(source: Source) -> dict[str, LazyTensor]:
    """Return the tensors named by the family's rules.

    Raises:
        UserError: Tensors are missing, unexpected, of the wrong shape or of an unknown dtype.
    """
    tensors = _add_prefix(source)
    expected = {
        name: rule.shape
        for rule in source.family.tensor_rules(source.config)
        for _, name in rule.tensor_names(source.config.num_layers)
    }
    problems = [
        *_truncate_list(_missing_or_unexpected(source, tensors, expected)),
        *_truncate_list(_wrong_shapes(tensors, expected)),
        *_truncate_list(_unknown_dtypes(tensors, expected)),
    ]
    if not problems:
        problems = list(_find_untied_lm_head(source, tensors))
    if problems:
        raise UserError(*(f"{source.path}: {problem}" for problem in problems))
    return {name: tensors[name] for name in expected}


def _add_prefix(source: Source) -> dict[str, LazyTensor]:
    """Add the causal model's prefix to names of a bare body, such as GPT-2's on the hub."""
    prefix = source.family.tensor_prefix
    if any(name.startswith(prefix) for name in source.tensors):
        return dict(source.tensors)
    return {
        name if name == _LM_HEAD_NAME else prefix + name: tensor
        for name, tensor in source.tensors.items()
    }


def _missing_or_unexpected(
    source: Source, tensors: Mapping[str, LazyTensor], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    ignored = [
        *source.family.ignored_tensors,
        *((_LM_HEAD_NAME,) if source.config.has_tied_embeddings else ()),
    ]
    unexpected = [
        name
        for name in tensors
        if name not in expected and not any(fnmatchcase(name, pattern) for pattern in ignored)
    ]
    for name, shape in expected.items():
        if name not in tensors:
            yield f"tensor {name} {list(shape)} is missing.{did_you_mean(name, unexpected)}"
    for name in unexpected:
        yield f"tensor {name} {list(tensors[name].shape)} does not belong to this model."


def _wrong_shapes(
    tensors: Mapping[str, LazyTensor], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != shape:
            actual = list(tensors[name].shape)
            yield f"tensor {name} has shape {actual}, but config.json implies {list(shape)}."


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


def _find_untied_lm_head(source: Source, tensors: Mapping[str, LazyTensor]) -> Iterator[str]:
    """Report a stored LM head that differs from the embedding to which the config ties it."""
    if not source.config.has_tied_embeddings or _LM_HEAD_NAME not in tensors:
        return
    embedding = next(
        rule.name
        for rule in source.family.tensor_rules(source.config)
        if rule.paths == (("embedding",),)
    )
    if not np.array_equal(tensors[_LM_HEAD_NAME].read(), tensors[embedding].read()):
        yield (
            f"tensor {_LM_HEAD_NAME} differs from {embedding}, but config.json ties them. If the "
            "model was trained with a separate LM head, set `tie_word_embeddings` to false."
        )


def _truncate_list(problems: Iterable[str]) -> list[str]:
    problems = list(problems)
    num_hidden = len(problems) - _MAX_LISTED
    more = [f"... and {num_hidden} more such tensors."] if num_hidden > 0 else []
    return problems[:_MAX_LISTED] + more
