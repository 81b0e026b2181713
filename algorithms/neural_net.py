"""Neural networks: PyTorch modules trained in this process or on the workers of a cluster.

Layers, autograd and optimisers are PyTorch's; how gradients travel is ``dask_petuum.nn``
(Poseidon). The program is in ``neural_net_program``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.callback import with_callbacks
from sklearn.utils.validation import check_is_fitted

from dask_petuum.data.kinds import dask_backed
from dask_petuum.unchanged import unchanged_by_errors

from .inputs import open_rows
from .linear_labels import check_labelled, classes_to_come, learn_classes
from .neural_net_base import NeuralNet
from .neural_net_fit import NeuralNetFit
from .neural_net_outputs import best, probabilities

__all__ = ["NeuralNetClassifier"]


class NeuralNetClassifier(ClassifierMixin, NeuralNet):  # type: ignore[misc]
    """A classifier around a PyTorch module, trained here or on a Dask cluster.

    Parameters
    ----------
    module
        Class of a ``torch.nn.Module``, or a function that makes one; ``module__key=value`` are its
        arguments. It gets float32 rows (n_rows, n_features) and gives a logit
        for each class (log-probabilities with ``criterion="NLLLoss"``). None: a perceptron with
        ReLU between its layers.
    hidden_layer_sizes
        Widths of the hidden layers of that perceptron.
    criterion
        Class of the loss, or its name in ``torch.nn``, with ``criterion__key``; it must know
        ``reduction="none"``. None: "CrossEntropyLoss".
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
    classes_ : ndarray (n_classes,)
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
    >>> from sklearn.datasets import load_iris
    >>> from dask_petuum.nn import NeuralNetClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = NeuralNetClassifier(lr=0.01, random_state=0, scheduler="local").fit(X, y)
    >>> model.score(X, y) > 0.9
    True
    """

    _criterion = "CrossEntropyLoss"
    classes_: NDArray[Any]

    @unchanged_by_errors
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, resume: str | None = None) -> Self:
        """Train the module.

        Parameters
        ----------
        X
            (n_rows, n_features): ndarray, CSR, DataFrame, xarray or a Dask collection.
        y
            (n_rows,) labels of any kind that can be ordered.
        sample_weight
            (n_rows,) weights >= 0; None: 1 each.
        resume
            URL of the checkpoints of this very fit, as ``checkpoint`` of the one that was
            interrupted: go on from the newest.
        """
        self._goes_on_from(resume)
        self._check_parameters()
        before = self.classes_ if self.warm_start and hasattr(self, "weights_") else None
        X, y, sample_weight = check_labelled(self, X, y, sample_weight)
        with open_rows(self, X, y, sample_weight) as job:
            self.classes_ = learn_classes(job, type(self).__name__)
            if before is None or not np.array_equal(before, self.classes_):
                self._forget()
            NeuralNetFit(self, job).run(
                n_outputs=len(self.classes_),
                max_epochs=int(self.max_epochs),
                first_epoch=0,
                callbacks=True,
            )
        self._seen = self.n_iter_
        return self

    @unchanged_by_errors
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Make one pass over further rows; the optimiser begins anew, its schedule goes on.

        Passes of ``fit`` and of earlier calls count, for the schedule and for the orders of rows.
        With ``early_stopping`` this is refused.

        Parameters
        ----------
        X, y, sample_weight
            As in ``fit``.
        classes
            All labels that will ever come; needed in the first call.
        """
        self._check_parameters()
        self._check_partial()
        first = not hasattr(self, "weights_")
        classes = classes_to_come(classes, None if first else self.classes_)
        X, y, sample_weight = check_labelled(self, X, y, sample_weight, reset=first)
        if first:
            self._forget()
            self.classes_ = classes
        with open_rows(self, X, y, sample_weight) as job:
            self._pass_over(job, len(self.classes_))
        return self

    def predict(self, X: Any) -> Any:
        """Return the label with the largest output of each row; lazy for a Dask collection."""
        check_is_fitted(self)
        function = partial(best, self.classes_)
        return self._apply(X, function, n_columns=None, dtype=self.classes_.dtype)

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class, (n_rows, n_classes); lazy for lazy rows."""
        check_is_fitted(self)
        function = partial(probabilities, self._fitted_recipe().gives_log_probabilities)
        return self._apply(X, function, n_columns=len(self.classes_), dtype=np.float32)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of rows with the right label (weighted); reads lazy rows in pieces."""
        predicted = self.predict(X)
        if dask_backed(predicted) is None:
            return float(super().score(X, y, sample_weight))
        right = predicted == (y if dask_backed(y) is None else dask_backed(y))
        if sample_weight is None:
            return float(right.mean().compute())
        return float(((right * sample_weight).sum() / sample_weight.sum()).compute())
