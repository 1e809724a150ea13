"""Dense divergences of two distributions over one vocabulary, and cross-entropy."""

from typing import Any

import torch
from dense_rows import Position, Rows, Values, mean_over


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
