"""Dense formulas of all objectives, on logits of `transformers` in PyTorch.

Nothing of `jaxdistill` is used here. A row is tokenized and read alone, each span is a pair of
lists, and each formula stands as in `docs/methods.md` and the papers. `FORMULAS` has one function
for each objective: `(objective, rows) -> values`, the loss under the name "" and its terms and
diagnostics under theirs.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from rapidfuzz.distance import Levenshtein

Values = dict[str, torch.Tensor]
NEGLIGIBLE_MASS = 1e-9
SINKHORN_ITERATIONS = 1000


@dataclass(frozen=True)
class Model:
    """A model in float64, its tokenizer, and the bytes of its tokens (None: special token)."""

    folder: Path

    @cached_property
    def network(self) -> Any:
        network = transformers.AutoModelForCausalLM.from_pretrained(self.folder)
        return network.to(torch.float64)

    @cached_property
    def tokenizer(self) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def token_bytes(self) -> list[bytes | None]:
        tokens = [""] * len(self.tokenizer)
        for token, token_id in self.tokenizer.get_vocab().items():
            tokens[token_id] = token
        is_byte_level = "Ġ" in tokens
        special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        decode = byte_level_bytes if is_byte_level else sentencepiece_bytes
        return [None if i in special else decode(token) for i, token in enumerate(tokens)]

    @cached_property
    def text_bytes(self) -> list[bytes | None]:
        """As `token_bytes`, but None for `<0x41>` where another token is `A`: no text has it."""
        names = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        is_fallback = [re.fullmatch("<0x..>", name) is not None for name in names]
        spelt = {b for b, skip in zip(self.token_bytes, is_fallback, strict=True) if not skip}
        return [
            None if skip and b in spelt else b
            for b, skip in zip(self.token_bytes, is_fallback, strict=True)
        ]

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """First token of each byte string."""
        return {b: i for i, b in reversed(list(enumerate(self.text_bytes))) if b is not None}

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def lm_head(self) -> torch.Tensor:
        return self.network.lm_head.weight[: len(self.tokenizer)]

    @property
    def embedding(self) -> torch.Tensor:
        return self.network.model.embed_tokens.weight.detach()


def byte_level_bytes(token: str) -> bytes:
    """Bytes of a GPT-2 token: printable Latin-1 stands for itself, other bytes from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(256 + index): byte for index, byte in enumerate(others)}
    return bytes(alphabet[character] for character in token)


def sentencepiece_bytes(token: str) -> bytes:
    if match := re.fullmatch("<0x(..)>", token):
        return bytes.fromhex(match[1])
    return token.replace("▁", " ").encode()


@dataclass(frozen=True)
class Side:
    """One row as one model reads it; index i is the position that predicts `labels[i]`."""

    tokens: list[int]
    labels: list[int]
    ends: list[int]
    """Byte of the completion where each label ends; 0 or less in the prompt."""
    scored: list[int]
    hidden: torch.Tensor
    logits: torch.Tensor

    @property
    def log_probs(self) -> torch.Tensor:
        return self.logits.log_softmax(-1)


def read_row(model: Model, prompt: str, completion: str) -> Side:
    """Tokenize a row, append the end-of-text token and compute its logits."""
    ids = model.tokenizer(prompt + completion)["input_ids"]
    ids = ids if ids[-1] == model.eos_id else [*ids, model.eos_id]
    sizes = [len(model.token_bytes[i] or b"") for i in ids]
    assert b"".join(model.token_bytes[i] or b"" for i in ids) == (prompt + completion).encode()
    ends = [sum(sizes[: n + 1]) - len(prompt.encode()) for n in range(len(ids))]
    assert 0 in ends, "a token lies in prompt and completion"
    scored = [n - 1 for n in range(1, len(ids)) if ends[n] > 0]
    hidden = model.network.model(torch.tensor([ids[:-1]])).last_hidden_state[0]
    return Side(ids[:-1], ids[1:], ends[1:], scored, hidden, hidden @ model.lm_head.T)


@dataclass(frozen=True)
class Position:
    """What both models predict at one compared position, and around it in its span.

    `prefix` is the log-probability of the earlier labels of the span, `span` that of all its
    labels, `following` the logits after the span (None at the end of the row).
    """

    p_logits: torch.Tensor
    q_logits: torch.Tensor
    p_prefix: torch.Tensor
    q_prefix: torch.Tensor
    p_span: torch.Tensor
    q_span: torch.Tensor
    p_following: torch.Tensor | None
    q_following: torch.Tensor | None


@dataclass(frozen=True)
class Rows:
    """All rows of a step, read by both models, and the modules of objectives by name."""

    student: Model
    teacher: Model
    pairs: list[tuple[Side, Side]]
    """`(student, teacher)` of each row."""
    modules: dict[str, Any] = field(default_factory=dict)

    @property
    def has_one_tokenizer(self) -> bool:
        return self.student.token_bytes == self.teacher.token_bytes

    @property
    def num_scored(self) -> int:
        return sum(len(student.scored) for student, _ in self.pairs)


def byte_spans(rows: Rows, student: Side, teacher: Side) -> list[tuple[list[int], list[int]]]:
    """Smallest spans of labels that end on the same byte; the end-of-text token is one, too."""
    if rows.has_one_tokenizer:
        return [([index], [index]) for index in student.scored]
    text = [side.scored[:-1] for side in (student, teacher)]  # without the end-of-text token
    ends = [
        {side.ends[n] for n in part} for side, part in zip((student, teacher), text, strict=True)
    ]
    spans = []
    for start, end in pairwise([0, *sorted(ends[0] & ends[1])]):
        members = [
            [n for n in part if start < side.ends[n] <= end]
            for side, part in zip((student, teacher), text, strict=True)
        ]
        spans.append((members[0], members[1]))
    return [*spans, (student.scored[-1:], teacher.scored[-1:])]


def equal_positions(rows: Rows, student: Side, teacher: Side) -> list[tuple[list[int], list[int]]]:
    """The n-th token of the completion's text beside the n-th.

    With one tokenizer all labels correspond, the end-of-text token among them.
    """
    if rows.has_one_tokenizer:
        return byte_spans(rows, student, teacher)
    return [([i], [j]) for i, j in zip(student.scored[:-1], teacher.scored[:-1], strict=False)]


def compare(student: Side, teacher: Side, span: tuple[list[int], list[int]], at: int) -> Position:
    """Read both sides of a span at its last (-1) or first (0) label."""
    logits, prefixes, totals, following = [], [], [], []
    for side, labels in zip((teacher, student), (span[1], span[0]), strict=True):
        chosen = torch.stack([side.log_probs[n, side.labels[n]] for n in labels])
        logits.append(side.logits[labels[at]])
        prefixes.append(chosen[:-1].sum())
        totals.append(chosen.sum())
        last = labels[-1] + 1
        following.append(side.logits[last] if last < len(side.labels) else None)
    return Position(*logits, *prefixes, *totals, *following)


def mean_over(
    rows: Rows,
    value: Callable[[Position], torch.Tensor],
    *,
    average: str = "groups",
    at: int = -1,
    spans: Callable[..., Any] = byte_spans,
    only_single_tokens: bool = False,
) -> torch.Tensor:
    """Mean of a value over spans (`groups`), or over rows of their means over spans (`rows`)."""
    means, counts = [], []
    for student, teacher in rows.pairs:
        chosen = spans(rows, student, teacher)
        if only_single_tokens:
            chosen = [span for span in chosen if len(span[0]) == len(span[1]) == 1]
        values = torch.stack([value(compare(student, teacher, span, at)) for span in chosen])
        means.append(values.mean())
        counts.append(len(chosen))
    weights = torch.tensor(counts, dtype=torch.float64)
    if average == "rows":
        weights = torch.ones_like(weights)
    return (weights * torch.stack(means)).sum() / weights.sum()


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def jensen_shannon(log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> torch.Tensor:
    mixture = (beta * log_p.exp() + (1 - beta) * log_q.exp()).log()
    return beta * kl(log_p, mixture) + (1 - beta) * kl(log_q, mixture)


def mixed(log_p: torch.Tensor, log_q: torch.Tensor, share: float) -> torch.Tensor:
    return (share * log_p.exp() + (1 - share) * log_q.exp()).log()


DIVERGENCES = {
    "forward_kl": lambda o, p, q: kl(p, q),
    "reverse_kl": lambda o, p, q: kl(q, p),
    "jensen_shannon": lambda o, p, q: jensen_shannon(p, q, o.beta),
    "skew_kl": lambda o, p, q: kl(p, mixed(p, q, o.alpha)),
    "skew_reverse_kl": lambda o, p, q: kl(q, mixed(q, p, o.alpha)),
    "total_variation": lambda o, p, q: (p.exp() - q.exp()).abs().sum() / 2,
}


def divergence(objective: Any, rows: Rows) -> Values:
    assert rows.has_one_tokenizer
    formula, t = DIVERGENCES[objective.type], objective.temperature
    scale = t**2 if objective.scale_by_temperature_squared else 1

    def value(position: Position) -> torch.Tensor:
        log_p, log_q = (
            (logits / t).log_softmax(-1) for logits in (position.p_logits, position.q_logits)
        )
        return scale * formula(objective, log_p, log_q)

    return {"": mean_over(rows, value)}


def cross_entropy(_: Any, rows: Rows) -> Values:
    terms = [
        -student.log_probs[n, student.labels[n]]
        for student, _teacher in rows.pairs
        for n in student.scored
    ]
    return {"": torch.stack(terms).mean()}


def sorted_l1(p: torch.Tensor, q: torch.Tensor, k: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ |p₍ᵢ₎ − q₍ᵢ₎|, or the least that it can be given the k largest, and its largest error."""
    size = max(len(p), len(q))
    p, q = (torch.nn.functional.pad(x, (0, size - len(x))).sort(descending=True)[0] for x in (p, q))
    k = size if k is None else k
    rest = p[k:].sum() - q[k:].sum()
    error = 2 * torch.minimum(p[k:].sum(), q[k:].sum()).detach()
    return (p[:k] - q[:k]).abs().sum() + rest.abs(), error


def joint_probs(position: Position) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of the span with each token in place of its last."""
    return (
        (position.p_logits.log_softmax(-1) + position.p_prefix).exp(),
        (position.q_logits.log_softmax(-1) + position.q_prefix).exp(),
    )


def with_bound(objective: Any, mean: Callable[[int], torch.Tensor]) -> Values:
    assert objective.max_bound is None, "write the dense rule of `max_bound` here"
    return {"": mean(0)} if objective.k is None else {"": mean(0), "bound": mean(1)}


def uld(objective: Any, rows: Rows) -> Values:
    spans = {"spans": byte_spans, "positions": equal_positions}[objective.align]
    options = {"average": objective.average, "spans": spans}
    return with_bound(
        objective,
        lambda part: mean_over(
            rows, lambda at: sorted_l1(*joint_probs(at), objective.k)[part], **options
        ),
    )


def shared_tokens(rows: Rows) -> list[tuple[int, int]]:
    """`(teacher's id, student's id)` of tokens of the same bytes, and of the end-of-text tokens."""
    if rows.has_one_tokenizer:
        return [(n, n) for n in range(len(rows.student.token_bytes))]
    teacher, student = rows.teacher.ids, rows.student.ids
    equal = [(teacher[token], student[token]) for token in teacher.keys() & student.keys()]
    return [*equal, (rows.teacher.eos_id, rows.student.eos_id)]


def shared_weight(objective: Any, p: torch.Tensor, is_shared: torch.Tensor) -> Any:
    if objective.shared == "mass":
        return p[is_shared].sum()
    return is_shared.double().mean() if objective.shared == "vocabulary" else objective.shared


def hybrid(
    objective: Any,
    weights: tuple[torch.Tensor, torch.Tensor],
    probs: tuple[torch.Tensor, torch.Tensor],
    next_p: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """w · JSD over shared outcomes + (1 − w) · sorted difference of the other tokens.

    `weights[side][token, outcome]` is 1 where a token belongs to a shared outcome.
    """
    outcomes = [p @ weight for p, weight in zip(probs, weights, strict=True)]
    others = [p[~weight.any(1)] for p, weight in zip(probs, weights, strict=True)]
    w = shared_weight(objective, next_p, weights[0].any(1))
    value = jensen_shannon(outcomes[0].log(), outcomes[1].log(), objective.beta)
    difference, error = sorted_l1(*others, objective.k)
    return w * value + (1 - w) * difference, (1 - w) * error


def membership(outcomes: list[Any], all_outcomes: list[Any]) -> torch.Tensor:
    """1 where a token has an outcome; `outcomes` gives the outcome of each token, or None."""
    matrix = torch.zeros(len(outcomes), len(all_outcomes), dtype=torch.float64)
    for token, outcome in enumerate(outcomes):
        if outcome is not None:
            matrix[token, all_outcomes.index(outcome)] = 1
    return matrix


def gold(objective: Any, rows: Rows) -> Values:
    pairs = shared_tokens(rows)
    weights = tuple(
        membership([ids.get(n) for n in range(len(model.token_bytes))], list(range(len(pairs))))
        for model, ids in (
            (rows.teacher, {pair[0]: index for index, pair in enumerate(pairs)}),
            (rows.student, {pair[1]: index for index, pair in enumerate(pairs)}),
        )
    )

    def value(at: Position) -> tuple[torch.Tensor, torch.Tensor]:
        return hybrid(objective, weights, joint_probs(at), at.p_logits.softmax(-1))

    return with_bound(
        objective,
        lambda part: mean_over(rows, lambda at: value(at)[part], average=objective.average),
    )


def first_subtokens(model: Model, other: Model) -> list[int | None]:
    """First token of the other model that each token's text is written in; None for special."""
    result: list[int | None] = []
    for token in model.text_bytes:
        if token is None:
            result.append(None)
            continue
        ids: list[int] = [other.ids[token]] if token in other.ids else []
        text = token.decode(errors="ignore")
        if not ids and text.encode() == token:
            encoded = other.tokenizer(text, add_special_tokens=False)["input_ids"]
            is_same = b"".join(other.text_bytes[i] or b"" for i in encoded) == token
            ids = encoded if is_same else []
        prefixes = (token[:size] for size in range(len(token), 0, -1))
        ids = ids or [next(other.ids[prefix] for prefix in prefixes if prefix in other.ids)]
        result.append(ids[0])
    result[model.eos_id] = other.eos_id
    return result


def buckets(rows: Rows) -> tuple[list[int | None], list[int | None]]:
    """Bucket of each token of teacher and student: a teacher token that its text begins with."""
    if rows.has_one_tokenizer:
        identity: list[int | None] = list(range(len(rows.student.token_bytes)))
        return identity, identity
    student = first_subtokens(rows.student, rows.teacher)
    teacher = [
        token if token in student else None if first is None else student[first]
        for token, first in enumerate(first_subtokens(rows.teacher, rows.student))
    ]
    return teacher, student


def bucket_weights(rows: Rows, *, with_special: bool) -> tuple[torch.Tensor, torch.Tensor]:
    teacher, student = buckets(rows)
    if with_special:  # all special tokens without a counterpart share one bucket
        teacher, student = ([-1 if b is None else b for b in side] for side in (teacher, student))
    names = sorted({b for b in (*teacher, *student) if b is not None})
    return membership(teacher, names), membership(student, names)


def projected_kl(objective: Any, rows: Rows) -> Values:
    assert objective.pieces == 1, "write the dense rule of `pieces` here"
    weights, t = bucket_weights(rows, with_special=True), objective.temperature

    def value(at: Position) -> torch.Tensor:
        p = (at.p_logits / t).softmax(-1) @ weights[0]
        q = (at.q_logits / t).softmax(-1) @ weights[1]
        scale = t**2 if objective.scale_by_temperature_squared else 1
        return scale * torch.where(p > 0, p * (p.clamp(min=1e-300) / q).log(), 0).sum()

    return {"": mean_over(rows, value, at=0)}


def hybrid_kl(objective: Any, rows: Rows) -> Values:
    weights = bucket_weights(rows, with_special=False)

    def value(at: Position) -> tuple[torch.Tensor, torch.Tensor]:
        probs = at.p_logits.softmax(-1), at.q_logits.softmax(-1)
        return hybrid(objective, weights, probs, probs[0])

    options = {"average": objective.average, "at": 0}
    return with_bound(objective, lambda n: mean_over(rows, lambda at: value(at)[n], **options))


def nearest_tokens(rows: Rows) -> list[int | None]:
    """Student token of the least edit distance to each teacher token, then shortest, then first."""
    if rows.has_one_tokenizer:
        return list(range(len(rows.student.token_bytes)))
    equal = dict(shared_tokens(rows))
    texts = [(n, b) for n, b in enumerate(rows.student.text_bytes) if b is not None]
    nearest: list[int | None] = []
    for token_id, token in enumerate(rows.teacher.text_bytes):
        if token_id in equal or token is None:
            nearest.append(equal.get(token_id))
        else:
            ranked = ((Levenshtein.distance(token, b), len(b), n) for n, b in texts)
            nearest.append(min(ranked)[2])
    return nearest


def mined(objective: Any, rows: Rows) -> Values:
    nearest, t = nearest_tokens(rows), objective.temperature
    sources: dict[int, list[int]] = {}
    for teacher_id, student_id in enumerate(nearest):
        if student_id is not None:
            sources.setdefault(student_id, []).append(teacher_id)

    def value(at: Position) -> torch.Tensor:
        largest = torch.stack([at.p_logits[ids].max() for ids in sources.values()])
        log_p = (largest / t).log_softmax(-1)
        log_q = (at.q_logits / t).log_softmax(-1)[list(sources)]
        return (t**2 if objective.scale_by_temperature_squared else 1) * kl(log_p, log_q)

    return {"": mean_over(rows, value, only_single_tokens=True)}


def alm(objective: Any, rows: Rows) -> Values:
    """Spans are compared with a word boundary behind them (`debias`), except at the row's end."""
    boundaries = [
        torch.tensor([b is None or b[:1].isspace() for b in model.token_bytes])
        for model in (rows.teacher, rows.student)
    ]

    def likelihood(log_prob: torch.Tensor) -> torch.Tensor:
        return (log_prob / objective.temperature - 1e-6).exp()  # the authors' margin

    def value(at: Position) -> torch.Tensor:
        log_p, log_q, factor = at.p_span, at.q_span, 1.0
        has_next = at.p_following is not None and at.q_following is not None
        if objective.debias is not None and has_next:
            p_end = at.p_following.softmax(-1)[boundaries[0]].sum()
            q_end = at.q_following.softmax(-1)[boundaries[1]].sum()
            log_p, log_q = log_p + p_end.log(), log_q + q_end.log()
            factor = float(p_end >= objective.debias)
        p, q = likelihood(log_p), likelihood(log_q)
        return -factor * (p * q.log() + (1 - p) * (1 - q).log())

    return {"": mean_over(rows, value)}


@dataclass(frozen=True)
class Outcomes:
    """Likeliest tokens of one side, and one outcome for all others (last).

    `names` are teacher's tokens, or tuples for tokens that only the student has.
    """

    masses: torch.Tensor
    names: list[Any]
    tokens: list[bytes | None]


def likeliest(logits: torch.Tensor, model: Model, names: list[Any], k: int) -> Outcomes:
    top, ids = logits.softmax(-1).topk(min(k, len(logits)))
    masses = torch.cat([top, (1 - top.sum())[None]])
    chosen = [names[i] for i in ids.tolist()], [model.text_bytes[i] for i in ids.tolist()]
    return Outcomes(masses, [*chosen[0], "rest"], [*chosen[1], None])


def edit_cost(source: Outcomes, target: Outcomes) -> torch.Tensor:
    """Edit distance in bytes by the longer length; 1 for special tokens, 0 for equal tokens."""
    cost = torch.ones(len(source.names), len(target.names), dtype=torch.float64)
    for i, left in enumerate(source.tokens):
        for j, right in enumerate(target.tokens):
            if source.names[i] == target.names[j]:
                cost[i, j] = 0
            elif left is not None and right is not None:
                cost[i, j] = Levenshtein.normalized_distance(left[:16], right[:16])
    return cost


def entropic_cost(
    p: torch.Tensor, q: torch.Tensor, cost: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """min ⟨P, C⟩ + ε KL(P‖p qᵀ) of many problems, by its optimal potentials."""
    p, q = p.clamp(min=NEGLIGIBLE_MASS), q.clamp(min=NEGLIGIBLE_MASS)
    log_p, log_q, g = p.detach().log(), q.detach().log(), torch.zeros_like(q)
    for _ in range(SINKHORN_ITERATIONS):
        f = -epsilon * ((g[:, None] - cost) / epsilon + log_q[:, None]).logsumexp(2)
        g = -epsilon * ((f[:, :, None] - cost) / epsilon + log_p[:, :, None]).logsumexp(1)
        g = g.detach()
    return (p * f.detach()).sum(1) + (q * g).sum(1)


def sinkhorn(objective: Any, rows: Rows) -> Values:
    assert objective.cost == "letters", "write the dense rule of `cost` here"
    assert objective.relaxed is None, "write the dense rule of `relaxed` here"
    teacher_names: list[Any] = list(range(len(rows.teacher.token_bytes)))
    matches = {student: teacher for teacher, student in shared_tokens(rows)}
    student_names = [matches.get(n, ("student", n)) for n in range(len(rows.student.token_bytes))]
    sides = []
    for student, teacher in rows.pairs:
        for span in byte_spans(rows, student, teacher):
            at = compare(student, teacher, span, 0)
            p = likeliest(at.p_logits, rows.teacher, teacher_names, objective.k)
            q = likeliest(at.q_logits, rows.student, student_names, objective.k)
            sides.append((p, q))

    def costs(left: int, right: int) -> torch.Tensor:
        masses = [torch.stack([pair[n].masses for pair in sides]) for n in (left, right)]
        cost = torch.stack([edit_cost(pair[left], pair[right]) for pair in sides])
        return entropic_cost(*masses, cost, objective.epsilon)

    return {"": (costs(0, 1) - costs(0, 0) / 2 - costs(1, 1) / 2).mean()}


def top_columns(side: Side, k: int) -> torch.Tensor:
    """Probabilities of the completion's k likeliest tokens, of logits of deviation 1."""
    logits = side.logits[side.scored]
    probs = (logits / logits.std(-1, keepdim=True)).softmax(-1)
    return probs[:, probs.detach().sum(0).argsort(descending=True, stable=True)[:k]]


def multi_level_ot(objective: Any, rows: Rows) -> Values:
    terms: dict[str, list[torch.Tensor]] = {"absolute": [], "logarithmic": [], "transport": []}
    for student, teacher in rows.pairs:
        q, p = (top_columns(side, objective.k) for side in (student, teacher))
        size = max(p.shape[1], q.shape[1])
        p, q = (torch.nn.functional.pad(x, (0, size - x.shape[1])) for x in (p, q))
        count = len(equal_positions(rows, student, teacher))
        near_p, near_q = p[:count], q[:count]
        terms["absolute"].append((near_p - near_q).abs().sum(1).mean())
        logarithmic = -(near_q.softmax(1) * near_p.log_softmax(1)).sum(1).mean()
        terms["logarithmic"].append(objective.beta * logarithmic)
        cost = ((p / 2).softmax(1)[:, None] - (q / 2).softmax(1)[None]).abs().sum(2)
        plan = (-cost / objective.epsilon).exp()
        for _ in range(objective.num_iterations):
            plan = plan / plan.sum(1, keepdim=True)
            plan = plan / plan.sum(0, keepdim=True)
        terms["transport"].append(objective.gamma * (plan * cost).sum())
    means = {name: torch.stack(values).mean() for name, values in terms.items()}
    return {"": torch.stack(list(means.values())).sum(), **means}


def linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    return x @ module["kernel"] + module["bias"]


def by_deviation(x: torch.Tensor) -> torch.Tensor:
    return x / (x.std(-1, correction=0, keepdim=True) + 1e-6)


def project(_: Rows, modules: Any, student: Side, teacher: Side) -> tuple[Any, Any]:
    to_student = linear(modules["to_student"], teacher.hidden[teacher.scored])
    return to_student, linear(modules["to_teacher"], student.hidden[student.scored])


def attend(rows: Rows, modules: Any, student: Side, teacher: Side) -> tuple[Any, Any]:
    """Cross-model attention between the completions of a row."""
    tokens, labels = [], []
    for model, side in ((rows.student, student), (rows.teacher, teacher)):
        tokens.append(model.embedding[[side.tokens[n] for n in side.scored]])
        labels.append(model.embedding[[side.labels[n] for n in side.scored]])
    queries, keys = (torch.cat(pair, dim=1) for pair in zip(tokens, labels, strict=True))
    keys = by_deviation(keys)
    scores = linear(modules["query"], queries) @ keys.T / math.sqrt(keys.shape[1])
    values = by_deviation(teacher.hidden[teacher.scored]) + by_deviation(labels[1])
    to_teacher = linear(modules["to_teacher"], student.hidden[student.scored])
    in_student_space = scores.softmax(1) @ linear(modules["to_student"], values)
    return in_student_space, scores.T.softmax(1) @ to_teacher


def dual_space(objective: Any, rows: Rows) -> Values:
    """−log t(label) + KL(t‖q) + KL(p‖s); LM heads are fixed, `t` is fixed in the divergence."""
    temperature, is_attending = objective.temperature, objective.type == "dskd_cma"
    names = "projected_cross_entropy", "student_space_kl", "teacher_space_kl"
    values: list[list[torch.Tensor]] = [[], [], []]
    for student, teacher in rows.pairs:
        in_student_space, in_teacher_space = (attend if is_attending else project)(
            rows, rows.modules[objective.type], student, teacher
        )
        t = in_student_space @ rows.student.lm_head.detach().T
        s = in_teacher_space @ rows.teacher.lm_head.T
        labels = torch.tensor([student.labels[n] for n in student.scored])
        values[0].append(-t.log_softmax(-1).gather(1, labels[:, None])[:, 0])
        log_t, log_q, log_p, log_s = (
            (logits / temperature).log_softmax(-1)
            for logits in (
                t.detach(),
                student.logits[student.scored],
                teacher.logits[teacher.scored],
                s,
            )
        )
        is_learned = t.argmax(1) == labels if is_attending else torch.ones_like(labels)
        values[1].append(kl(log_t, log_q) * is_learned)
        values[2].append(kl(log_p, log_s))
    means = {name: torch.cat(v).mean() for name, v in zip(names, values, strict=True)}
    return {"": torch.stack(list(means.values())).sum(), **means}


FORMULAS: dict[str, Callable[[Any, Rows], Values]] = {
    **dict.fromkeys(DIVERGENCES, divergence),
    "cross_entropy": cross_entropy,
    "uld": uld,
    "gold": gold,
    "hybrid_kl": hybrid_kl,
    "projected_kl": projected_kl,
    "mined": mined,
    "alm": alm,
    "sinkhorn": sinkhorn,
    "multi_level_ot": multi_level_ot,
    "dskd": dual_space,
    "dskd_cma": dual_space,
}
