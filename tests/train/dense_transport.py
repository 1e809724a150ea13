"""Dense optimal transport: Sinkhorn divergence of tokens, and the costs of `multi_level_ot`."""

from dataclasses import dataclass
from typing import Any

import torch
from dense_cross_tokenizer import shared_tokens
from dense_rows import Model, Rows, Side, Values, byte_spans, compare, equal_positions
from rapidfuzz.distance import Levenshtein

NEGLIGIBLE_MASS = 1e-9
SINKHORN_ITERATIONS = 1000


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
        before = g
        f = -epsilon * ((g[:, None] - cost) / epsilon + log_q[:, None]).logsumexp(2)
        g = -epsilon * ((f[:, :, None] - cost) / epsilon + log_p[:, :, None]).logsumexp(1)
        g = g.detach()
        if (g - before).abs().max() < 1e-12:
            break
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
