"""A neural network for numbers; see ``neural_net`` for labels."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.callback import with_callbacks
from sklearn.utils.validation import check_is_fitted

from dask_petuum.unchanged import unchanged_by_errors

from .inputs import open_rows
from .linear_targets import LinearPredictionMixin, check_targets, check_values_and_targets
from .neural_net_base import NeuralNet
from .neural_net_fit import NeuralNetFit
from .neural_net_outputs import single

__all__ = ["NeuralNetRegressor"]


class NeuralNetRegressor(
    LinearPredictionMixin,
    RegressorMixin,  # type: ignore[misc]
    NeuralNet,
):
    """A regressor around a PyTorch module, trained here or on a Dask cluster.

    Parameters
    ----------
    module
        Class of a ``torch.nn.Module``, or a function that makes one; ``module__key=value`` are its
        arguments. It gets float32 rows (n_rows, n_features) and gives one
        number for each. None: a perceptron with ReLU between its layers.
    hidden_layer_sizes
        Widths of the hidden layers of that perceptron.
    criterion
        Class of the loss, or its name in ``torch.nn``, with ``criterion__key``; it must know
        ``reduction="none"``. None: "MSELoss".
    optimizer
        Class of the optimiser, or its name in ``torch.optim``, with ``optimizer__key``.
    lr
        Its step size.
    lr_scheduler
        Class of a schedule, or its name in ``torch.optim.lr_scheduler``, with
        ``lr_scheduler__key``; moved on after each pass. None: the same step size always.
    batch_size
        Rows that each partition gives to a step: a rank's batch, as in torch's
        DistributedDataParallel, where it has one partition.
    max_epochs
        Passes over the rows at most.
    shuffle
        Visit the rows in a new order in each pass.
    early_stopping
        Hold out a part of the rows; stop when their loss does not get better. The weights are those
        at the end of the pass with the least loss; where ranks may be stale, and so have weights of
        their own, those that the rank with the first partition had then.
    validation_fraction, n_iter_no_change, tol
        The share of the rows that is held out, and how many passes the loss may go without
        getting better by ``tol``.
    gradient_clip
        Largest norm of a step's gradient; None: any.
    local_steps
        H, steps that ranks make apart. With "bsp", 1: the gradients of every step are averaged;
        more: an outer optimiser applies the mean of H steps' changes (DiLoCo).
    outer_lr, outer_momentum
        Step size and Nesterov momentum of the outer optimiser; 1 and 0 is the plain average.
        Refused where there is no such optimiser.
    sufficient_factors
        True: Linear layers send activations and output gradients where that is less than their
        gradient matrix. "auto": unless all ranks are on one host. False: they do not.
    wire_dtype
        Numbers as they are sent: "float32", or "float16" or "bfloat16", with what rounding took
        from gradients added to the next message (nothing is added to factors). With "bsp" only.
    overlap
        Send gradients while the backward pass goes on, and wait for them layer by layer.
    warm_start
        Let ``fit`` start from the weights of the last fit.
    random_state
        Seed of the first weights, the orders and dropout.
    device
        Where torch trains and predicts, "cpu" or "cuda": a rank takes the first GPU that it sees,
        or where several of a host see the same ones, that of its place on the host. Each rank needs
        a process of its own then. Predictions are made on the CPU where there is no GPU.
    autocast
        Type in which torch computes what may be less exact (``torch.autocast``): "bfloat16", or
        "float16" with a loss that is scaled so that small gradients do not vanish; None: float32.
    n_jobs
        Threads of torch in this process (None: all cores), or in each rank on a cluster (None: all
        of its worker).
    verbose
        1: print each clock.
    consistency, staleness
        "bsp": all ranks have the same weights. "ssp", "essp" or "asp": each rank steps by itself
        from weights in the store that may lag by so many clocks of ``local_steps`` steps.
    scheduler
        None: the active Dask client, else this process; "local"; or a scheduler's address.
    checkpoint
        URL of a folder in which checkpoints of a fit are files. See :doc:`/recovery`.

    Attributes
    ----------
    weights_ : dict from name to ndarray, the module's parameters and buffers
    n_iter_ : int, passes made (rounded up)
    history_ : list of dict, one record a clock (a pass, or 100 steps of it at most; where ranks
        may be stale, ``local_steps`` steps); ``loss`` is
        the mean over the clock's rows, ``valid_loss`` that of the rows held out, where a pass ends,
        ``gradient_bytes`` what all ranks sent for their steps and ``bytes_saved`` how much less
        that is than whole float32 gradients in every step; ``layers`` has, for each Linear
        layer's weight by name, how it was ``sent`` and its ``bytes_saved``
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    See :doc:`/nn` for when each way to communicate wins.

    References
    ----------
    H. Zhang et al., "Poseidon: an efficient communication architecture for distributed deep
    learning on GPU clusters", USENIX ATC 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_petuum.nn import NeuralNetRegressor
    >>> X = np.linspace(-1, 1, 200)[:, np.newaxis]
    >>> model = NeuralNetRegressor(lr=0.01, random_state=0, scheduler="local").fit(X, X[:, 0] ** 2)
    >>> model.score(X, X[:, 0] ** 2) > 0.9
    True
    """

    _criterion = "MSELoss"

    @unchanged_by_errors
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, resume: str | None = None) -> Self:
        """Train the module.

        Parameters
        ----------
        X
            (n_rows, n_features): ndarray, CSR, DataFrame, xarray or a Dask collection.
        y
            (n_rows,) targets; scale them to about 1.
        sample_weight
            (n_rows,) weights >= 0; None: 1 each.
        resume
            URL of the checkpoints of this very fit, as ``checkpoint`` of the one that was
            interrupted: go on from the newest.
        """
        self._goes_on_from(resume)
        self._check_parameters()
        warm = self.warm_start and hasattr(self, "weights_")
        X, y, sample_weight = check_targets(self, X, y, sample_weight)
        with open_rows(self, X, y, sample_weight, check_values_and_targets) as job:
            if not warm:
                self._forget()
            NeuralNetFit(self, job).run(
                n_outputs=1, max_epochs=int(self.max_epochs), first_epoch=0, callbacks=True
            )
        self._seen = self.n_iter_
        return self

    @unchanged_by_errors
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Make one pass over further rows; the optimiser begins anew, its schedule goes on.

        Passes of ``fit`` and of earlier calls count, for the schedule and for the orders of rows.
        With ``early_stopping`` this is refused.

        Parameters
        ----------
        X, y, sample_weight
            As in ``fit``.
        """
        self._check_parameters()
        self._check_partial()
        first = not hasattr(self, "weights_")
        X, y, sample_weight = check_targets(self, X, y, sample_weight, reset=first)
        if first:
            self._forget()
        with open_rows(self, X, y, sample_weight, check_values_and_targets) as job:
            self._pass_over(job, 1)
        return self

    def predict(self, X: Any) -> Any:
        """Return the module's output for each row, (n_rows,); lazy for a Dask collection."""
        check_is_fitted(self)
        return self._apply(X, single, n_columns=None, dtype=np.float32)
