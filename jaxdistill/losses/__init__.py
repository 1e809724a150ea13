"""Pure functions on arrays: one value per row, in float32 and nats, never reduced further."""

from jaxdistill.losses.cosine import cosine_distance as cosine_distance
from jaxdistill.losses.divergences import forward_kl as forward_kl
from jaxdistill.losses.divergences import jensen_shannon as jensen_shannon
from jaxdistill.losses.divergences import reverse_kl as reverse_kl
from jaxdistill.losses.divergences import skew_kl as skew_kl
from jaxdistill.losses.divergences import skew_reverse_kl as skew_reverse_kl
from jaxdistill.losses.divergences import total_variation as total_variation
from jaxdistill.losses.edit_distance import (
    normalised_edit_distance as normalised_edit_distance,
)
from jaxdistill.losses.likelihood import binary_cross_entropy as binary_cross_entropy
from jaxdistill.losses.multi_level import absolute_difference as absolute_difference
from jaxdistill.losses.multi_level import logarithmic_cost as logarithmic_cost
from jaxdistill.losses.multi_level import transport_of_places as transport_of_places
from jaxdistill.losses.projection import largest_by_place as largest_by_place
from jaxdistill.losses.projection import log_sums as log_sums
from jaxdistill.losses.sinkhorn import transport_cost as transport_cost
from jaxdistill.losses.transport import sorted_difference as sorted_difference
from jaxdistill.losses.transport import sorted_difference_of_top as sorted_difference_of_top
from jaxdistill.losses.transport import sorted_difference_within as sorted_difference_within
