"""How a dataset is measured: bins, bounds, returns and samples in one record, and the paper's choices as presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from offbench.analysis.quality_counting import EXACT_LIMIT, PRECISION
from offbench.errors import SpecError, UnknownNameError

Bounds = Literal["reference", "own", "pooled"]
Partial = Literal["drop", "keep"]
# Families whose bounds are each dataset's own in the code of Schweighofer et al. 2022.
OWN_BOUNDS = ("MiniGrid", "MinAtar")


@dataclass(frozen=True)
class QualitySettings:
    """What the numbers depend on besides the data.

    Attributes:
        edges: of the bins of every column of observation and action, see `quality_bins.Bins`.
        bounds: whose smallest and largest values the first and last edge are: those of the reference dataset, of each
            dataset itself, or of all datasets that are compared.
        zero_row: count one row of zeros in addition, as the paper's code does: its array of states is one row too
            long.
        first_rows: count only so many transitions, from the first; None: all.
        discount: of returns.
        partial_episodes: whether returns of episodes that are neither terminated nor truncated count.
        exact_limit, precision: of counting, see `quality_counting.DistinctCounter`.
        sample: rows of each dataset that measures of neighbours, clusters and distances look at.
        neighbours: k of nearest neighbours.
        radius: within which two states are near, in standard deviations per column.
        clusters: of states.
        seed: of samples, projections and clusters.
    """

    edges: int = 100
    bounds: Bounds = "reference"
    zero_row: bool = False
    first_rows: int | None = None
    discount: float = 1.0
    partial_episodes: Partial = "drop"
    exact_limit: int = EXACT_LIMIT
    precision: int = PRECISION
    sample: int = 4000
    neighbours: int = 5
    radius: float = 0.25
    clusters: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bounds not in ("reference", "own", "pooled"):
            raise UnknownNameError("bounds", self.bounds, ["reference", "own", "pooled"])
        if self.partial_episodes not in ("drop", "keep"):
            raise UnknownNameError("treatment of partial episodes", self.partial_episodes, ["drop", "keep"])
        if not 0 <= self.discount <= 1:
            raise SpecError(f"a discount of {self.discount}", "", "give a number from 0 to 1")
        if min(self.sample, self.neighbours, self.clusters) < 1 or not self.radius > 0:
            raise SpecError("sample, neighbours, clusters and radius must be positive")
        if self.first_rows is not None and self.first_rows < 1:
            raise SpecError(f"the first {self.first_rows} rows are none", "", "give a positive number")

    def to_json(self) -> dict[str, Any]:
        """Every field, for the record of a measurement."""
        return asdict(self)


PRESETS: dict[str, QualitySettings] = {
    # The code of the paper for CartPole and MountainCar: 100 edges between the extremes of the replay data.
    "paper": QualitySettings(zero_row=True),
    # The same for MiniGrid and MinAtar: each dataset between its own extremes.
    "paper-own-bounds": QualitySettings(zero_row=True, bounds="own"),
    # The paper's side study of D4RL: 5 edges, the first 100,000 transitions, no extra row.
    "paper-continuous": QualitySettings(edges=5, first_rows=100_000),
}


def preset_for(environment: str | None, discrete: bool) -> str:
    """Return the name of the preset that follows the paper's code for such data."""
    if not discrete:
        return "paper-continuous"
    own = environment is not None and any(family in environment for family in OWN_BOUNDS)
    return "paper-own-bounds" if own else "paper"


def get_preset(name: str) -> QualitySettings:
    """Return a preset; UnknownNameError if there is none of that name."""
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]
