"""How two tokenizations of one text stand beside each other (host side)."""

from jaxdistill.align.identity import difference as difference
