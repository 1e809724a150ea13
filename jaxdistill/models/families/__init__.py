"""The families: one file each, with what `config.json` means and one table of tensors."""

from jaxdistill.models.families.family import Family as Family
from jaxdistill.models.families.family import FamilyRegistry as FamilyRegistry

FAMILIES = FamilyRegistry(__name__, __path__)
