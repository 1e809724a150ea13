"""Model families, one file each: how to read and write `config.json`, and the tensor rules."""

from jaxdistill.models.families.family import Family as Family
from jaxdistill.models.families.family import FamilyRegistry as FamilyRegistry

FAMILIES = FamilyRegistry(__name__, __path__)
