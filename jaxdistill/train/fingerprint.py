"""Fingerprint of a run: the values that must not change when the run continues."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdistill.errors import UserError

_MAX_DIFFERENCES = 4


@dataclass(frozen=True)
class Fingerprint:
    """JSON values that must not change when a run continues, by name.

    Attributes:
        values: Values that a checkpoint holds. A value that is a mapping describes content, such as
            that of a model; it is compared with checkpoints that describe it, too.
        defaults: Values of fields that are left out of `values`, because they are the defaults.
            So a checkpoint may come from a version that did not know one of them.
        ignored: Names of values that are not compared, and of sections of them.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def check(self, path: Path, saved: Mapping[str, Any]) -> None:
        """Compare with the fingerprint in the checkpoint at `path`; UserError names differences."""
        if lines := self.difference_lines(path, saved):
            raise UserError(*lines, CONTINUE_HINT)

    def difference_lines(self, path: Path, saved: Mapping[str, Any]) -> list[str]:
        """Return a line for each value that differs from the checkpoint at `path`, at most four."""
        lines = [
            f"{path}: was written with {name} = {before!r}, not {now!r}."
            for name, before, now in self._differences(saved)
        ]
        if len(lines) > _MAX_DIFFERENCES:
            shown = _MAX_DIFFERENCES - 1
            lines = [*lines[:shown], f"{path}: {len(lines) - shown} more fields differ."]
        return lines

    def _differences(self, saved: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
        """Yield name, saved and current value of each difference; None for no value."""
        for name in sorted({*saved, *self.values}):
            now = self.values.get(name, self.defaults.get(name))
            before = saved.get(name, self.defaults.get(name))
            num_mappings = isinstance(now, Mapping) + isinstance(before, Mapping)
            if self._is_ignored(name) or num_mappings == 1:
                continue
            if num_mappings == 2:
                yield from ((f"{name} {n}", b, c) for n, b, c in differences(before, now))
            elif before != now:
                yield name, before, now

    def _is_ignored(self, name: str) -> bool:
        return any(name == other or name.startswith(f"{other}.") for other in self.ignored)


CONTINUE_HINT = (
    "Continue with the config, the models and the data that the run began with, or choose another "
    "run folder (`output=...`)."
)


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return name, saved and current value of each entry that differs; None for no value."""
    values = [(name, saved.get(name), current.get(name)) for name in sorted({*saved, *current})]
    return [difference for difference in values if difference[1] != difference[2]]
