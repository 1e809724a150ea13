"""Validation of a file's tensors against a model: all problems in one error."""

from collections.abc import Iterator, Mapping
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
        for rule in source.family.tensor_rules(source.language_model.config)
        for _, name in rule.tensor_names(source.language_model.widths.layers)
    }
    ignored = [
        *source.family.ignored_tensors,
        *((_LM_HEAD_NAME,) if source.language_model.config.has_tied_embeddings else ()),
    ]
    unexpected = [
        name
        for name in tensors
        if name not in expected and not any(fnmatchcase(name, pattern) for pattern in ignored)
    ]
    found = {name: tensors[name] for name in expected if name in tensors}
    dtypes = SAFETENSORS_DTYPES.values()
    missing = [
        f"tensor {name} {list(shape)} is missing.{did_you_mean(name, unexpected)}"
        for name, shape in expected.items()
        if name not in tensors
    ]
    foreign = [
        f"tensor {name} {list(tensors[name].shape)} does not belong to this model."
        for name in unexpected
    ]
    misshapen = [
        f"tensor {name} has shape {list(tensor.shape)}, but config.json implies "
        f"{list(expected[name])}."
        for name, tensor in found.items()
        if tensor.shape != expected[name]
    ]
    quantized = [
        f"tensor {name} is stored as {tensor.dtype}, a quantised format; "
        f"expected one of {', '.join(dtypes)}."
        for name, tensor in found.items()
        if tensor.dtype not in dtypes
    ]
    problems = [
        line
        for lines in (missing + foreign, misshapen, quantized)
        for line in _truncate_list(lines)
    ]
    if not problems:
        problems = list(_find_untied_lm_head(source, tensors))
    if problems:
        raise UserError(*(f"{source.path}: {problem}" for problem in problems))
    return found


def _add_prefix(source: Source) -> dict[str, LazyTensor]:
    """Add the causal model's prefix to names of a bare body, such as GPT-2's on the hub."""
    prefix = source.family.tensor_prefix
    if any(name.startswith(prefix) for name in source.tensors):
        return dict(source.tensors)
    return {
        name if name == _LM_HEAD_NAME else prefix + name: tensor
        for name, tensor in source.tensors.items()
    }


def _find_untied_lm_head(source: Source, tensors: Mapping[str, LazyTensor]) -> Iterator[str]:
    """Report a stored LM head that differs from the embedding to which the config ties it."""
    if not source.language_model.config.has_tied_embeddings or _LM_HEAD_NAME not in tensors:
        return
    embedding = next(
        rule.name
        for rule in source.family.tensor_rules(source.language_model.config)
        if rule.paths == (("embedding",),)
    )
    if not np.array_equal(tensors[_LM_HEAD_NAME].read(), tensors[embedding].read()):
        yield (
            f"tensor {_LM_HEAD_NAME} differs from {embedding}, but config.json ties them. If the "
            "model was trained with a separate LM head, set `tie_word_embeddings` to false."
        )


def _truncate_list(problems: list[str]) -> list[str]:
    num_hidden = len(problems) - _MAX_LISTED
    more = [f"... and {num_hidden} more such tensors."] if num_hidden > 0 else []
    return problems[:_MAX_LISTED] + more
