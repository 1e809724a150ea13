"""Rollouts: origins of the completions to learn, one file per kind.

A rollout is a config class with `complete(rows, renderer=, length=, generation_cache=)`. The method
returns the rows with completions, in the same order. `renderer` is the teacher's tokenizer. If
`needs_teacher` is True, `generation_cache` must be given.
"""

from jaxdistill.config import Registry

ROLLOUTS = Registry("rollout", package="jaxdistill.data.rollouts")
