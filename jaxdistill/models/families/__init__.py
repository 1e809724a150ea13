"""The families: one file each, with what `config.json` means and one table of tensors."""

from jaxdistill.models.families.family import Families as Families
from jaxdistill.models.families.family import Family as Family

FAMILIES = Families(__name__, __path__)
