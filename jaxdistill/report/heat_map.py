"""Heat maps: a value for each pair of layers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from jaxdistill.report.svg import render_svg, style_axes

_MAX_LABELLED_COLUMNS = 16
_DARK = 0.7
"""Value above which a cell is too dark for black text."""


@dataclass(frozen=True)
class HeatMap:
    """A value for each pair of a student's and a teacher's layer.

    Attributes:
        title: What the values are.
        rows: Layers of the student.
        columns: Layers of the teacher.
        values: One row of values for each layer of the student.
        pairs: Pairs that are marked: by their value, or by a dot where that has no room.
        pairs_name: What the pairs are.
    """

    title: str
    rows: Sequence[int]
    columns: Sequence[int]
    values: Sequence[Sequence[float]]
    pairs: Collection[tuple[int, int]] = ()
    pairs_name: str = ""

    @property
    def caption(self) -> str:
        """The title, and what is marked."""
        return f"{self.title}; marked: {self.pairs_name}" if self.pairs_name else self.title

    @property
    def description(self) -> str:
        """The marked pairs with their values, for screen readers."""
        marked = [
            f"student's layer {row} and the teacher's {column}: {self.value(row, column):.2f}"
            for row, column in self.pairs
        ]
        return f"{self.caption}. {'; '.join(marked)}."

    def value(self, row: int, column: int) -> float:
        """Return the value of a student's and a teacher's layer."""
        return self.values[self.rows.index(row)][self.columns.index(column)]


def draw_heat_map(heat_map: HeatMap) -> str:
    """Draw a heat map, and return an `<svg>` element."""

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        values = np.array(heat_map.values, float)
        image = axes.pcolormesh(np.clip(values, 0, 1), cmap="Blues", vmin=0, vmax=1.2)
        scale = figure.colorbar(image, boundaries=np.linspace(0, 1, 21), ticks=[0, 0.5, 1])
        scale.ax.tick_params(length=0)
        scale.outline.set_visible(False)
        for row, column in heat_map.pairs:
            x = heat_map.columns.index(column) + 0.5
            y = heat_map.rows.index(row) + 0.5
            value = heat_map.value(row, column)
            colour = "white" if value > _DARK else "black"
            if len(heat_map.columns) <= _MAX_LABELLED_COLUMNS:
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", size=7, color=colour)
            else:
                axes.plot(x, y, "o", markersize=3, color=colour)
        axes.invert_yaxis()
        step = max(1, len(heat_map.columns) // 12)
        ticks = range(0, len(heat_map.columns), step)
        axes.set_xticks([tick + 0.5 for tick in ticks], [str(heat_map.columns[t]) for t in ticks])
        axes.set_yticks(np.arange(len(heat_map.rows)) + 0.5, [str(row) for row in heat_map.rows])
        axes.set_xlabel("layer of the teacher")
        axes.set_ylabel("layer of the student")
        style_axes(axes)
        axes.grid(visible=False)

    height = max(2.0, 1.2 + 0.22 * len(heat_map.rows))  # room for the name of the axis
    return render_svg(fill, alt_text=heat_map.description, size_inches=(5.2, height))
