"""Base class of the estimators: where to run, callbacks, history, saving what was learnt.

An estimator describes its work as a :class:`~dask_petuum.runtime.program.Program`;
everything that all estimators share of running it is here. The Dask client is a property and not a
parameter: scikit-learn's ``clone`` copies parameters deeply, and a client cannot be copied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from os import PathLike
from typing import Any, NoReturn, Self

from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from dask_petuum.data import open_dataset
from dask_petuum.results import model_to_xarray
from dask_petuum.runtime.job import Check, Job, Monitor, RunOptions, RunResult
from dask_petuum.runtime.program import Program, Record
from dask_petuum.runtime.where import open_job
from dask_petuum.saving import read_model, write_model
from dask_petuum.store.consistency import Staleness

__all__ = ["PetuumEstimator"]

#: Attributes that belong to this process, to one call of fit, or that follow from parameters.
NOT_SAVED = ("_client", "_resume", "_made_of")
#: What fitted attributes are called: ``coef_``, ``_seen``.
NAME = re.compile(r"[a-z]\w*_|_[a-z]\w*", re.ASCII)


class PetuumEstimator(CallbackSupportMixin, BaseEstimator):  # type: ignore[misc]
    """Base of all estimators.

    Subclasses have the parameters ``scheduler``, ``n_jobs``, ``verbose`` and, where they train
    through the store, ``consistency`` and ``staleness``; their ``fit`` is decorated with
    ``sklearn.callback.with_callbacks``.
    """

    scheduler: str | None = None
    n_jobs: int | None = None
    verbose: int = 0
    consistency: str = "bsp"
    staleness: Staleness = 0
    checkpoint: str | None = None
    history_: list[Record]

    @property
    def client(self) -> Any:
        """The Dask client to run on, where it is not the active one; not a parameter."""
        return self.__dict__.get("_client")

    @client.setter
    def client(self, client: Any) -> None:
        self.__dict__["_client"] = client

    def to_xarray(self) -> Any:
        """What was learnt, as a labelled xarray.Dataset; see `dask_petuum.results.VARIABLES`."""
        check_is_fitted(self)
        return model_to_xarray(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Write parameters and what was learnt to one file, which replaces an older one at once.

        It holds arrays and JSON, each part with its hash, and nothing that could run. Of
        ``random_state`` only a number is kept.

        Parameters
        ----------
        path
            A file, or a URL that fsspec knows. Where it ends in ``.zarr``: a folder of chunked
            arrays, for models that are large, which needs zarr.

        Raises
        ------
        TypeError
            For a parameter or an id that is no number, text or array.
        FileExistsError
            Where a folder is there that is no saved model.
        """
        check_is_fitted(self)
        parameters = self._parameters_to_save()
        if not isinstance(parameters.get("random_state"), Integral):
            parameters["random_state"] = None
        if not self._is_parameter("random_state"):
            del parameters["random_state"]
        learnt = {
            name: value
            for name, value in vars(self).items()
            if not self._is_parameter(name)
            and name not in NOT_SAVED
            and not name.startswith("_skl")
        }
        write_model(path, type(self).__name__, {"parameters": parameters, "learnt": learnt})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a model of this class that `save` wrote; runs no code of the file's.

        Raises
        ------
        ValueError
            For a file that is none of ours, damaged, of another class or a newer version.
        """
        return cls._read(path, {})

    @classmethod
    def _read(cls, path: str | PathLike[str], given: Mapping[str, Any]) -> Self:
        """As `load`, with some parameters as given."""
        about = read_model(path, cls.__name__)
        parameters, learnt = (about.get(name) for name in ("parameters", "learnt"))
        if not isinstance(parameters, dict) or not isinstance(learnt, dict):
            raise ValueError(f"{path} cannot be loaded: it lacks parameters or what was learnt")
        unknown = sorted(name for name in map(str, parameters) if not cls._is_parameter(name))
        unknown += [
            name
            for name in map(str, learnt)
            if not NAME.fullmatch(name) or name in NOT_SAVED or hasattr(cls, name)
        ]
        if unknown:
            raise ValueError(f"{path} cannot be loaded: a {cls.__name__} has no {unknown[0]!r}")
        model = cls(**{**parameters, **given})
        model.__dict__.update(learnt)
        return model

    def _parameters_to_save(self) -> dict[str, Any]:
        parameters: dict[str, Any] = self.get_params(deep=False)
        return parameters

    @classmethod
    def _is_parameter(cls, name: str) -> bool:
        return name in cls._get_param_names()

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_client", None)
        state.pop("_resume", None)
        return state

    def _goes_on_from(self, resume: str | None) -> None:
        """Let the next job go on from checkpoints at a URL; None: begin."""
        self.__dict__.pop("_resume", None)
        if resume is not None:
            self.__dict__["_resume"] = resume

    def _open_job(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        check: Check | None = None,
        dtype: Any = None,
    ) -> Job:
        """Cut the data by rows and open a job where this estimator is to run.

        ``check`` is called with (X, y, sample_weight) of each piece where it lies.
        """
        dataset = open_dataset(X, y, sample_weight)
        return open_job(
            dataset,
            scheduler=self.scheduler,
            client=self.client,
            check=check,
            dtype=dtype,
            n_jobs=self.n_jobs,
            checkpoint=self.checkpoint,
            resume=self.__dict__.pop("_resume", None),
        )

    def _seed(self, random_state: Any) -> int:
        """Draw the root of a run's random streams from scikit-learn's ``random_state``."""
        return int(check_random_state(random_state).randint(2**31 - 1))

    def _run(
        self,
        job: Job,
        program: Program,
        keep: Callable[[RunResult], None],
        *,
        max_clocks: int,
        seed: int = 0,
        callbacks: bool = True,
    ) -> None:
        """Run a program; ``keep`` turns its result into fitted attributes.

        After Ctrl-C, what was learnt so far is kept, then KeyboardInterrupt goes on its way.
        ``callbacks`` is False for methods that scikit-learn's callbacks do not know (partial_fit).
        """
        with self._fit_task(max_clocks, callbacks=callbacks) as monitor:
            options = RunOptions(
                max_clocks=max_clocks,
                seed=seed,
                consistency=self.consistency,
                staleness=self.staleness,
                monitor=monitor,
            )
            result = job.run(program, options)
            keep(result)
        if result.stopped_by == "interrupt":
            self._raise_interrupt(result.n_clocks)

    @contextmanager
    def _fit_task(self, max_clocks: int, *, callbacks: bool = True) -> Iterator[Monitor]:
        """Tell scikit-learn's callbacks of the fit that the ``with`` block makes.

        Gives what is to be called with the record of every finished clock, ``max_clocks`` at most.
        An error ends the block without a word to the callbacks, as in scikit-learn's own fits.
        """
        if not callbacks:
            yield self._print
            return
        root = self._init_callback_context(max_subtasks=max_clocks)
        monitor = self._monitor(root)
        root.call_on_fit_task_begin(estimator=self)
        yield monitor
        root.call_on_fit_task_end(estimator=self)

    def _raise_interrupt(self, n_clocks: int) -> NoReturn:
        """Let Ctrl-C go on its way, once what was learnt in so many clocks is kept."""
        raise KeyboardInterrupt(
            f"fit was interrupted after {n_clocks} clocks; the estimator keeps what it had learnt"
        )

    def _monitor(self, root: Any) -> Monitor:
        """Make the function that is told of every finished clock, and may ask for the end."""

        def monitor(record: Record) -> bool:
            self._print(record)
            task = root.subcontext(task_name="clock")
            task.call_on_fit_task_begin(estimator=self)
            return bool(task.call_on_fit_task_end(estimator=self))

        return monitor

    def _print(self, record: Record) -> bool:
        if self.verbose:
            text = ", ".join(f"{name} {value:.6g}" for name, value in record.items())
            print(f"[{type(self).__name__}] {text}", flush=True)
        return False
