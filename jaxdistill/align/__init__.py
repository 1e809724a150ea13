"""Alignment of two tokenizers: spans of one text, and matching tokens of two vocabularies."""

from jaxdistill.align.nearest_tokens import nearest_tokens as nearest_tokens
from jaxdistill.align.shared_buckets import SharedBuckets as SharedBuckets
from jaxdistill.align.shared_buckets import build_shared_buckets as build_shared_buckets
from jaxdistill.align.shared_buckets import retokenize as retokenize
from jaxdistill.align.spans import AlignmentRule as AlignmentRule
from jaxdistill.align.spans import ByteRanges as ByteRanges
from jaxdistill.align.spans import ComparedTokens as ComparedTokens
from jaxdistill.align.spans import SpanIds as SpanIds
from jaxdistill.align.spans import align_positions as align_positions
from jaxdistill.align.spans import align_spans as align_spans
from jaxdistill.align.tokenizer_difference import tokenizer_difference as tokenizer_difference
from jaxdistill.align.vocabulary import SpecialPairs as SpecialPairs
from jaxdistill.align.vocabulary import TokenBytes as TokenBytes
from jaxdistill.align.vocabulary import exact_matches as exact_matches
from jaxdistill.align.vocabulary import padded_token_bytes as padded_token_bytes
from jaxdistill.align.vocabulary import text_token_bytes as text_token_bytes
from jaxdistill.align.vocabulary import token_bytes as token_bytes
from jaxdistill.align.vocabulary import word_boundaries as word_boundaries
