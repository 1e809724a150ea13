"""Rollouts: where the answers that are learned come from. One file a kind.

Each is a config class with `complete(rows, templates=, length=, writer=)`, which returns the rows
with answers, in their order; `needs_teacher` says whether the `writer` is needed for that.
"""

from jaxdistill.config import Registry

ROLLOUTS = Registry("rollout", package="jaxdistill.data.rollouts")
