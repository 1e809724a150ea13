"""Heat maps: a value for each pair of layers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from jaxdistill.report.svg import render_svg, style_axes


@dataclass(frozen=True)
class HeatMap:
    """A value for each pair of a student's and a teacher's layer.

    Attributes:
        title: What the values are.
        rows: Layers of the student.
        columns: Layers of the teacher.
        values: One row of values for each layer of the student.
        pairs: Pairs whose value is written.
    """

    title: str
    rows: Sequence[int]
    columns: Sequence[int]
    values: Sequence[Sequence[float]]
    pairs: Collection[tuple[int, int]] = ()

    @property
    def description(self) -> str:
        """The largest value of each row, for screen readers."""
        best = [
            f"student's layer {row}: {max(values):.2f} with the teacher's "
            f"{self.columns[int(np.argmax(values))]}"
            for row, values in zip(self.rows, self.values, strict=True)
        ]
        return f"{self.title}. {'; '.join(best)}."


def draw_heat_map(heat_map: HeatMap) -> str:
    """Draw a heat map, and return an `<svg>` element."""

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        values = np.array(heat_map.values, float)
        axes.pcolormesh(np.clip(values, 0, 1), cmap="Blues", vmin=0, vmax=1.2)
        for row, column in heat_map.pairs:
            y, x = heat_map.rows.index(row), heat_map.columns.index(column)
            axes.text(x + 0.5, y + 0.5, f"{values[y, x]:.2f}", ha="center", va="center", size=7)
        axes.invert_yaxis()
        step = max(1, len(heat_map.columns) // 12)
        ticks = range(0, len(heat_map.columns), step)
        axes.set_xticks([tick + 0.5 for tick in ticks], [str(heat_map.columns[t]) for t in ticks])
        axes.set_yticks(np.arange(len(heat_map.rows)) + 0.5, [str(row) for row in heat_map.rows])
        axes.set_xlabel("layer of the teacher")
        axes.set_ylabel("layer of the student")
        style_axes(axes)
        axes.grid(visible=False)

    height = 1.2 + 0.22 * len(heat_map.rows)
    return render_svg(fill, alt_text=heat_map.description, size_inches=(5.2, height))
