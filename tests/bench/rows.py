"""What a benchmark returns, and how it is printed."""

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what was measured, what it may be at most, and their ratio (1.00: just at the limit)."""

    what: str
    measured: float
    limit: float
    unit: str
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.measured / self.limit

    def line(self) -> str:
        return (
            f"{self.what:<58} {self.measured:>10.3f} {self.unit:<8} limit {self.limit:>9.3f}"
            f"   ratio {self.ratio:5.2f}  {'ok' if self.ratio <= 1 else 'OVER'}  {self.note}"
        )


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share of them lies; of few values the largest."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def middle(values: list[float]) -> float:
    """Return the median."""
    return median(values)
