"""Dense comparison of inner layers: hidden states, attention, and relations."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from dense_rows import Model, Rows, Side, Values, byte_spans

UNIFORM_PAIRS = [(1, 1), (2, 1)]
"""`uniform` for a student of two layers and a teacher of one."""


class Inner(NamedTuple):
    """Hidden states and attention of a row, and queries, keys and values of each layer."""

    hidden: list[torch.Tensor]
    attention: list[torch.Tensor]
    projections: list[list[torch.Tensor]]


def inner(model: Model, side: Side) -> Inner:
    network = model.network.model
    network.set_attn_implementation("eager")
    options = {"output_hidden_states": True, "output_attentions": True}
    output = network(torch.tensor([side.tokens]), **options)
    hidden = [states[0] for states in output.hidden_states]
    projections = []
    for layer, states in zip(network.layers, hidden[:-1], strict=True):
        x = layer.input_layernorm(states)
        projections.append([getattr(layer.self_attn, f"{name}_proj")(x) for name in "qkv"])
    return Inner(hidden, [maps[0] for maps in output.attentions], projections)


class Compared(NamedTuple):
    """Compared positions of both models, and the groups of keys whose attention is summed."""

    positions: tuple[list[int], list[int]]
    keys: tuple[list[list[int]], list[list[int]]]


def compared(objective: Any, rows: Rows, student: Side, teacher: Side) -> Compared:
    """With two tokenizers, positions after spans; keys are the tokens of spans, and all others."""
    if rows.has_one_tokenizer:
        scored = student.scored
        chosen = {"all": list(range(len(student.tokens))), "completion": scored}
        own = chosen[objective.positions]
        keys = [[n] for n in range(len(student.tokens))]
        return Compared((own, own), (keys, keys))
    spans = byte_spans(rows, student, teacher)
    sides = student, teacher
    after = [
        span
        for span in spans
        if all(part[-1] + 1 < len(side.tokens) for part, side in zip(span, sides, strict=True))
    ]
    positions, keys = [], []
    for number, side in enumerate(sides):
        positions.append([span[number][-1] + 1 for span in after])
        groups = [[n + 1 for n in span[number] if n + 1 < len(side.tokens)] for span in spans]
        others = set(range(len(side.tokens))) - {n for group in groups for n in group}
        keys.append([*groups, sorted(others)])
    return Compared(tuple(positions), tuple(keys))


def pairs_of(objective: Any) -> list[tuple[int, int]]:
    return UNIFORM_PAIRS if objective.layers == "uniform" else list(objective.layers)


def hidden(objective: Any, rows: Rows) -> Values:
    """Distance of the student's mapped hidden states, over layers, then over positions."""
    assert objective.bridge == "learned", "write the dense formula of other bridges here"
    modules = rows.modules["hidden"]
    values = []
    for student, teacher in rows.pairs:
        own, other = inner(rows.student, student), inner(rows.teacher, teacher)
        (at, teacher_at), _ = compared(objective, rows, student, teacher)
        distances = []
        for pair in pairs_of(objective):
            module = modules[f"{pair[0]}_{pair[1]}"]
            a = own.hidden[pair[0]][at] @ module["kernel"] + module["bias"]
            b = other.hidden[pair[1]][teacher_at]
            distances.append(distance(objective.distance, a, b))
        values.append(torch.stack(distances).mean(0))
    return {"": torch.cat(values).mean()}


def distance(name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if name == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(a, b, dim=-1)
    squared = (a - b).square()
    return squared.mean(-1) if name == "mse" else squared.sum(-1) / b.square().sum(-1)


def attention(objective: Any, rows: Rows) -> Values:
    """Distance of maps, over layers and heads, then over queries."""
    values = []
    for student, teacher in rows.pairs:
        own, other = inner(rows.student, student), inner(rows.teacher, teacher)
        positions, keys = compared(objective, rows, student, teacher)
        distances = []
        for pair in pairs_of(objective):
            for q, p in maps_of(objective, own, other, pair):
                q, p = (
                    torch.stack([maps[at][:, group].sum(-1) for group in groups], -1)
                    for maps, at, groups in zip((q, p), positions, keys, strict=True)
                )
                distances.append(map_distance(objective.distance, q, p))
        values.append(torch.stack(distances).mean(0))
    return {"": torch.cat(values).mean()}


def maps_of(
    objective: Any, own: Inner, other: Inner, pair: tuple[int, int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the maps of student and teacher that are compared."""
    q, p = own.attention[pair[0] - 1], other.attention[pair[1] - 1]
    if objective.heads == "mean":
        yield q.mean(0), p.mean(0)
    elif objective.heads == "map":
        for head in range(len(q)):
            yield q[head], p[head * len(p) // len(q)]
    else:
        projections = own.projections[pair[0] - 1], other.projections[pair[1] - 1]
        for x, y in zip(*projections, strict=True):
            for head in range(objective.relation_heads):
                sides = (side.chunk(objective.relation_heads, -1)[head] for side in (x, y))
                yield tuple(map(relation, sides))


def relation(x: torch.Tensor) -> torch.Tensor:
    scores = x @ x.T / math.sqrt(x.shape[1])
    return scores.masked_fill(~torch.ones_like(scores).tril().bool(), -torch.inf).softmax(-1)


def map_distance(name: str, q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    if name == "mse":
        return (q - p).square().sum(-1)
    return torch.where(p > 0, p * (p.clamp(min=1e-300).log() - q.clamp(min=1e-12).log()), 0).sum(-1)
