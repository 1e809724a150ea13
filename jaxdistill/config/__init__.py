"""Configs: frozen dataclasses read from YAML files and `a.b=value` overrides. No JAX here.

Example:
    >>> from jaxdistill.config import configclass, load
    >>> @configclass
    ... class Train:
    ...     steps: int = 100
    >>> load(Train, None, ["steps=5"])
    Train(steps=5)
"""

from jaxdistill.config.configclass import configclass as configclass
from jaxdistill.config.load import dump as dump
from jaxdistill.config.load import flatten as flatten
from jaxdistill.config.load import load as load
from jaxdistill.config.reference import ConfigSection as ConfigSection
from jaxdistill.config.reference import config_sections as config_sections
from jaxdistill.config.registry import Registry as Registry
