"""One call of ``fit`` or ``partial_fit`` of a neural network: set up, run, keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.nn.plan import Plan
from dask_petuum.runtime.job import Job, RunResult

from .neural_net_devices import chooses_device
from .neural_net_program import NeuralNetProgram

if TYPE_CHECKING:
    from .neural_net_base import NeuralNet

__all__ = ["NeuralNetFit"]


class NeuralNetFit:
    """The run of one fit.

    Parameters
    ----------
    estimator
        Its parameters have been checked.
    job
        The data, and the place to run.
    """

    def __init__(self, estimator: NeuralNet, job: Job) -> None:
        self.estimator = estimator
        self.job = job

    def run(self, *, n_outputs: int, max_epochs: int, first_epoch: int, callbacks: bool) -> None:
        """Make passes over the rows, from the estimator's weights where it has any.

        Raises
        ------
        ValueError
            Where a parameter of the module, loss or optimiser cannot be; before any work.
        """
        given = self.estimator
        seed = given._seed(given.random_state)
        known = given.__dict__.get("weights_")
        if known is None:
            given._first_seed = seed
        given._n_outputs = n_outputs
        plan = self._plan(seed, max_epochs, first_epoch)
        recipe, self._made_of = given._recipe(), given._of_module()
        program = NeuralNetProgram(
            recipe,
            plan,
            self._settings(),
            weights=known,
            layers=names_of_layers(recipe),
            classes=given.__dict__.get("classes_"),
            first=first_vector(recipe, known, plan.stale),
            patience=int(given.n_iter_no_change) if given.early_stopping else None,
            tol=float(given.tol),
        )
        given._run(
            self.job,
            program,
            lambda result: self._keep(plan, result),
            max_clocks=plan.n_clocks,
            seed=seed,
            callbacks=callbacks,
        )

    def _plan(self, seed: int, max_epochs: int, first_epoch: int) -> Plan:
        given = self.estimator
        plan = Plan(
            sizes=tuple(size.n_rows for size in self.job.sizes),
            batch_size=int(given.batch_size),
            max_epochs=max_epochs,
            seed=seed,
            shuffle=bool(given.shuffle),
            validation_fraction=float(given.validation_fraction) if given.early_stopping else 0.0,
            local_steps=int(given.local_steps),
            stale=given.consistency != "bsp",
            first_epoch=first_epoch,
        )
        held_out = sum(plan.n_held_out(i) for i in range(len(plan.sizes)))
        if given.early_stopping and not held_out:
            raise ValueError(
                f"early_stopping needs rows to hold out, validation_fraction="
                f"{given.validation_fraction} of {plan.sizes} rows is none"
            )
        return plan

    def _settings(self) -> Any:
        from dask_petuum.nn.trainer import Settings

        given = self.estimator
        weights = sum(self.job.map(_weight))
        return Settings(
            device=str(given.device),
            chooses_device=chooses_device(self.job, str(given.device)),
            autocast=given.autocast,
            factors=given.sufficient_factors,
            wire=given.wire_dtype,
            overlap=bool(given.overlap),
            clip=None if given.gradient_clip is None else float(given.gradient_clip),
            outer_rate=float(given.outer_lr),
            outer_momentum=float(given.outer_momentum),
            weight_unit=self.job.n_rows / weights if weights else 1.0,
        )

    def _keep(self, plan: Plan, result: RunResult) -> None:
        given = self.estimator
        given.weights_ = {name: np.array(values) for name, values in result.outputs[0].items()}
        given._made_of = self._made_of
        given.history_ = [_with_layers(record) for record in result.history]
        done = plan.steps(result.n_clocks - 1).stop if result.n_clocks else 0
        given.n_iter_ = -(-done // plan.steps_per_pass)


def first_vector(recipe: Any, weights: Any, stale: bool) -> Any:
    """First values of the table of the weights; None: there is no table."""
    from dask_petuum.nn.recipe import first_values

    values = first_values(recipe, weights)  # builds all, so that errors come before any work
    return values if stale else None


def names_of_layers(recipe: Any) -> list[str]:
    """Names of the weights that may be sent as factors."""
    from dask_petuum.nn.units import factor_layers

    return factor_layers(recipe.build_module())


def _with_layers(record: Mapping[str, Any]) -> dict[str, Any]:
    """A clock's record, with what is said of each layer under `layers`, by its name."""
    saved = {name: value for name, value in record.items() if name.startswith("saved.")}
    out = {name: value for name, value in record.items() if name not in saved}
    if saved:
        out["layers"] = {
            name.removeprefix("saved."): {
                "sent": "factors" if value > 0 else "gradient",
                "bytes_saved": value,
            }
            for name, value in saved.items()
        }
    return out


def _weight(partition: Partition) -> float:
    weights = partition.sample_weight
    return float(partition.n_rows if weights is None else weights.sum(dtype=np.float64))
