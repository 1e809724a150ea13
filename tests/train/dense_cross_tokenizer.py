"""Dense objectives between two vocabularies: sorted, shared, projected and mined tokens, spans."""

from collections.abc import Callable
from typing import Any

import torch
from dense_divergences import jensen_shannon, kl
from dense_rows import Model, Position, Rows, Values, byte_spans, equal_positions, mean_over
from rapidfuzz.distance import Levenshtein


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
