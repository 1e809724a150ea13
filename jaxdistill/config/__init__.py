"""YAML and `a.b=value` in, frozen dataclasses out; mistakes named with their cure. No JAX here.

Example:
    >>> from jaxdistill.config import configclass, load
    >>> @configclass
    ... class Train:
    ...     steps: int = 100
    >>> load(Train, None, ["steps=5"])
    Train(steps=5)
"""

from jaxdistill.config.load import dump as dump
from jaxdistill.config.load import flat as flat
from jaxdistill.config.load import load as load
from jaxdistill.config.reference import Section as Section
from jaxdistill.config.reference import sections as sections
from jaxdistill.config.registry import Registry as Registry
from jaxdistill.config.schema import configclass as configclass
