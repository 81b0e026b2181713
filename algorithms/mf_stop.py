"""When matrix factorisation ends: by the training error, or by the error of held-out ratings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dask_petuum.runtime.program import Record

from .mf_problem import Problem

__all__ = ["Stop", "passes_of"]


@dataclass(frozen=True)
class Stop:
    """The rule.

    Attributes
    ----------
    tol
        Share of the error by which it must fall to count as progress.
    patience
        Passes in a row without progress that end the run.
    """

    tol: float
    patience: int

    def errors(
        self, problem: Problem, squares: float, held: float, ended: float
    ) -> Mapping[str, float]:
        """Turn sums of squares into root mean squared errors in the unit of the ratings.

        ``ended`` is above 0 where a pass ends: only then is the held-out error known.
        """
        out = {
            "rmse": problem.scale * (squares / problem.n_ratings) ** 0.5,
            "pass_end": float(ended > 0),
        }
        if problem.n_held:
            out["validation_rmse"] = (
                problem.scale * (held / problem.n_held) ** 0.5 if ended else float("nan")
            )
        return out

    def reached(self, history: Sequence[Record], n_first: int) -> bool:
        """Say whether the last ``patience`` passes brought no progress; not before ``n_first``."""
        if not history[-1]["pass_end"]:
            return False
        passes = passes_of(history)[n_first - 1 :]
        if len(passes) <= self.patience:
            return False
        name = "validation_rmse" if "validation_rmse" in passes[-1] else "rmse"
        errors = [record[name] for record in passes]
        best = min(errors[: -self.patience])
        return min(errors[-self.patience :]) > best * (1 - self.tol)


def passes_of(history: Sequence[Record]) -> list[Record]:
    """Records of the clocks that ended a pass."""
    return [record for record in history if record["pass_end"]]
