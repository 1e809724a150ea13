"""How two tokenizations of one text stand beside each other (host side)."""

from jaxdistill.align.edit_distance import nearest_words as nearest_words
from jaxdistill.align.identity import difference as difference
from jaxdistill.align.projection import Projection as Projection
from jaxdistill.align.projection import pieces as pieces
from jaxdistill.align.projection import projection as projection
from jaxdistill.align.saved import Arrays as Arrays
from jaxdistill.align.saved import saved as saved
from jaxdistill.align.spans import Alignment as Alignment
from jaxdistill.align.spans import Extents as Extents
from jaxdistill.align.spans import Groups as Groups
from jaxdistill.align.spans import positions as positions
from jaxdistill.align.spans import spans as spans
from jaxdistill.align.vocabulary import boundaries as boundaries
from jaxdistill.align.vocabulary import letters as letters
from jaxdistill.align.vocabulary import token_bytes as token_bytes
from jaxdistill.align.vocabulary import twins as twins
from jaxdistill.align.vocabulary import words as words
