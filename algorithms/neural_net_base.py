"""What neural networks for classes and for numbers share: parameters, weights, layers' outputs."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from numbers import Integral, Real
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from dask_petuum.base import PetuumEstimator
from dask_petuum.lazy import map_rows
from dask_petuum.runtime.job import Job
from dask_petuum.store.consistency import Consistency, Staleness

from .inputs import Checked, check_choice, check_number, rows_to_apply
from .neural_net_devices import check_device
from .neural_net_fit import NeuralNetFit
from .neural_net_outputs import OfModule, flat

__all__ = ["NeuralNet"]

#: What ``NAME__key`` may be given for.
PREFIXES = ("module", "criterion", "optimizer", "lr_scheduler")
#: Parameters, with ``NAME__key``, that say what a module and its outputs are.
OF_MODULE = ("module", "criterion", "hidden_layer_sizes")
#: What a fit leaves.
LEARNT = ("weights_", "history_", "n_iter_", "_first_seed", "_n_outputs", "_seen", "_made_of")
#: Key of what stands for a class in a saved model.
CLASS = "class"
WIRES = ("float32", "float16", "bfloat16")
AUTOCASTS = ("bfloat16", "float16")


class NeuralNet(TransformerMixin, PetuumEstimator):  # type: ignore[misc]
    """Base of the estimators around a PyTorch module; parameters are documented there."""

    _criterion: str
    n_features_in_: int
    n_iter_: int
    weights_: dict[str, NDArray[Any]]
    _first_seed: int
    _n_outputs: int
    _made_of: dict[str, Any]  # parameters that say which module the weights are of

    # over the limit: scikit-learn wants every parameter spelt out
    def __init__(
        self,
        module: Any = None,
        *,
        hidden_layer_sizes: Any = (100,),
        criterion: Any = None,
        optimizer: Any = "Adam",
        lr: float = 1e-3,
        lr_scheduler: Any = None,
        batch_size: int = 128,
        max_epochs: int = 100,
        shuffle: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        gradient_clip: float | None = None,
        local_steps: int = 1,
        outer_lr: float = 1.0,
        outer_momentum: float = 0.0,
        sufficient_factors: bool | str = "auto",
        wire_dtype: str = "float32",
        overlap: bool = True,
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "cpu",
        autocast: str | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        consistency: str = "bsp",
        staleness: Staleness = 0,
        scheduler: str | None = None,
        checkpoint: str | None = None,
        **nested: Any,
    ) -> None:
        self.module = module
        self.hidden_layer_sizes = hidden_layer_sizes
        self.criterion = criterion
        self.optimizer = optimizer
        self.lr = lr
        self.lr_scheduler = lr_scheduler
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.shuffle = shuffle
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.gradient_clip = gradient_clip
        self.local_steps = local_steps
        self.outer_lr = outer_lr
        self.outer_momentum = outer_momentum
        self.sufficient_factors = sufficient_factors
        self.wire_dtype = wire_dtype
        self.overlap = overlap
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.autocast = autocast
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.consistency = consistency
        self.staleness = staleness
        self.scheduler = scheduler
        self.checkpoint = checkpoint
        self._take(nested)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        # `module__key` is no parameter of its own: what reads the signature should not set it
        own = signature(cls)
        named = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        cls.__signature__ = own.replace(parameters=named)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = []  # float32, as torch computes
        return tags

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Give the parameters, those of the form ``module__key`` as well."""
        parameters: dict[str, Any] = super().get_params(deep=deep)
        return parameters | {name: self.__dict__[name] for name in sorted(self._nested())}

    def set_params(self, **parameters: Any) -> Self:
        """Set parameters, those of the form ``module__key`` as well."""
        nested = {name: value for name, value in parameters.items() if _is_nested(name)}
        self.__dict__.update(nested)
        super().set_params(**{n: v for n, v in parameters.items() if n not in nested})
        return self

    @classmethod
    def load(cls, path: str | PathLike[str], **classes: Any) -> Self:
        """Read a model of this class that `save` wrote; runs no code of the file's.

        Parameters
        ----------
        path
            The file.
        classes
            What ``module``, ``criterion``, ``optimizer`` and ``lr_scheduler`` were, where they were
            classes or functions: a file cannot hold these.

        Raises
        ------
        ValueError
            For a file that is none of ours, damaged, of another class or a newer version; where a
            class is missing, or another module is given.
        """
        wrong = sorted(set(classes) - set(PREFIXES))
        if wrong:
            raise TypeError(f"load takes the classes {' or '.join(PREFIXES)}, got {wrong[0]!r}")
        model = cls._read(path, classes)
        for name in PREFIXES:
            value = getattr(model, name)
            if isinstance(value, dict):
                raise ValueError(
                    f"{path} was saved with {name}={value.get(CLASS)}: "
                    f"give it, as in load(path, {name}=...)"
                )
        model._made_of = model._of_module()
        model.to_module()
        return model

    def to_module(self) -> Any:
        """Build the plain trained ``torch.nn.Module``, in evaluation mode, on the CPU."""
        check_is_fitted(self)
        from dask_petuum.nn.infer import trained_module

        return trained_module(self._fitted_recipe(), self.weights_)

    def save_weights(self, path: str | PathLike[str]) -> None:
        """Write parameters and buffers as a safetensors file."""
        check_is_fitted(self)
        from dask_petuum.nn.weights_file import write_weights

        write_weights(path, self.weights_)

    def load_weights(self, path: str | PathLike[str]) -> Self:
        """Take parameters and buffers of a safetensors file in place of the trained ones.

        The estimator has to be fitted, so that it knows its columns and outputs; ``max_epochs=0``
        does so without a step.

        Raises
        ------
        ValueError
            For a file that is damaged, or of another module.
        """
        check_is_fitted(self)
        from dask_petuum.nn.infer import trained_module
        from dask_petuum.nn.weights_file import read_weights

        weights = read_weights(path)
        trained_module(self._fitted_recipe(), weights)
        self.weights_ = weights
        return self

    def transform(self, X: Any, layer: str | None = None) -> Any:
        """Give the outputs of a layer for each row, (n_rows, n) float32; lazy for lazy rows.

        Parameters
        ----------
        X
            Rows.
        layer
            Its name, as in ``to_module().named_modules()``; None: the module itself.
        """
        check_is_fitted(self)
        return self._apply(X, flat, layer=layer, n_columns=self._width(layer), dtype=np.float32)

    def _pass_over(self, job: Job, n_outputs: int) -> None:
        """Make one pass over the rows of a ``partial_fit``."""
        seen = self.__dict__.get("_seen", 0)
        history = self.__dict__.get("history_", [])
        NeuralNetFit(self, job).run(
            n_outputs=n_outputs, max_epochs=1, first_epoch=seen, callbacks=False
        )
        self.history_ = history + [
            {**record, "clock": record["clock"] + len(history)} for record in self.history_
        ]
        self._seen = self.n_iter_ = seen + 1

    def _apply(
        self, X: Any, function: Any, *, n_columns: int | None, dtype: Any, layer: str | None = None
    ) -> Any:
        """Apply a picklable function of the module's outputs to the rows."""
        X, lazy = rows_to_apply(self, X)
        recipe = self._fitted_recipe()
        apply = OfModule(recipe, self.weights_, function, layer, str(self.device))
        if not lazy:
            return apply(X)
        return map_rows(Checked(apply, self.n_features_in_), X, n_columns=n_columns, dtype=dtype)

    def _width(self, layer: str | None) -> int:
        """Numbers that a layer gives for a row."""
        recipe = self._fitted_recipe()
        apply = OfModule(recipe, self.weights_, flat, layer, str(self.device))
        return int(apply(np.zeros((1, self.n_features_in_), np.float32)).shape[1])

    def _of_module(self) -> dict[str, Any]:
        """Parameters that say what the module and its outputs are."""
        nested = [name for name in self._nested() if name.split("__")[0] in OF_MODULE]
        return {name: getattr(self, name) for name in (*OF_MODULE, *nested)}

    def _fitted_recipe(self) -> Any:
        """The recipe that the weights are of, whatever has been set since."""
        return self._recipe(self._made_of)

    def _recipe(self, made_of: Mapping[str, Any] | None = None) -> Any:
        """The recipe by the parameters; by some of them as they were, where these are given."""
        from dask_petuum.nn.recipe import Recipe

        of_module = self._of_module() if made_of is None else made_of
        others = {n: getattr(self, n) for n in self._nested() if n.split("__")[0] not in OF_MODULE}
        arguments: dict[str, dict[str, Any]] = {prefix: {} for prefix in PREFIXES}
        for name, value in (others | dict(of_module)).items():
            if _is_nested(name):
                prefix, key = name.split("__", 1)
                arguments[prefix][key] = value
        criterion = of_module["criterion"]
        return Recipe(
            module=of_module["module"],
            criterion=self._criterion if criterion is None else criterion,
            optimizer=self.optimizer,
            lr=float(self.lr),
            schedule=self.lr_scheduler,
            arguments=arguments,
            hidden=tuple(int(n) for n in np.atleast_1d(of_module["hidden_layer_sizes"])),
            n_inputs=self.n_features_in_,
            n_outputs=self._n_outputs,
            seed=self._first_seed,
        )

    def _parameters_to_save(self) -> dict[str, Any]:
        """Give what the weights are of as it was; name what a file cannot hold: classes."""
        now = self._of_module()
        parameters = {n: v for n, v in super()._parameters_to_save().items() if n not in now}
        parameters |= self._made_of
        for name in PREFIXES:
            value = parameters[name]
            if callable(value):
                label = getattr(value, "__qualname__", repr(value))
                parameters[name] = {CLASS: f"{value.__module__}.{label}"}
        parameters["device"] = str(parameters["device"])  # it may be a torch.device
        return parameters

    @classmethod
    def _is_parameter(cls, name: str) -> bool:
        return super()._is_parameter(name) or _is_nested(name)

    def _take(self, nested: dict[str, Any]) -> None:
        """Take keywords of the form ``module__key`` in ``__init__``."""
        for name in nested:
            if not _is_nested(name):
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}")
        self.__dict__.update(nested)

    def _nested(self) -> list[str]:
        return [name for name in self.__dict__ if _is_nested(name)]

    def _forget(self) -> None:
        """Drop what was learnt."""
        for name in LEARNT:
            self.__dict__.pop(name, None)

    def _check_partial(self) -> None:
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")

    def _check_parameters(self) -> None:
        check_number("lr", self.lr, Real, 0, strict=True)
        check_number("outer_lr", self.outer_lr, Real, 0, strict=True)
        check_number("tol", self.tol, Real, 0)
        check_number("max_epochs", self.max_epochs, Integral, 0)
        for name in ("batch_size", "n_iter_no_change", "local_steps"):
            check_number(name, getattr(self, name), Integral, 1)
        for name in ("validation_fraction", "outer_momentum"):
            check_number(name, getattr(self, name), Real, 0)
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be < 1, got {getattr(self, name)!r}")
        if self.gradient_clip is not None:
            check_number("gradient_clip", self.gradient_clip, Real, 0, strict=True)
        for width in np.atleast_1d(self.hidden_layer_sizes).tolist():
            check_number("hidden_layer_sizes", width, Integral, 1)
        if not isinstance(self.sufficient_factors, bool):
            check_choice("sufficient_factors", self.sufficient_factors, ("auto",))
        if self.autocast is not None:
            check_choice("autocast", self.autocast, AUTOCASTS)
        check_device(self.device)
        check_choice("wire_dtype", self.wire_dtype, WIRES)
        Consistency.parse(self.consistency, self.staleness)
        self._check_ways()

    def _check_ways(self) -> None:
        """Refuse what the way in which ranks agree has no use for."""
        stale = self.consistency != "bsp"
        if stale and self.wire_dtype != "float32":
            raise ValueError(
                f'wire_dtype={self.wire_dtype!r} needs consistency="bsp", got '
                f"{self.consistency!r}: changes of the weights are float32 in the store"
            )
        for name, plain in (("outer_lr", 1), ("outer_momentum", 0)):
            value = getattr(self, name)
            if value != plain and (stale or self.local_steps == 1):
                raise ValueError(
                    f'{name}={value!r} needs consistency="bsp" and local_steps > 1, got '
                    f"{self.consistency!r} and {self.local_steps}: there is no outer optimiser"
                )


def _is_nested(name: str) -> bool:
    prefix, _, key = name.partition("__")
    return prefix in PREFIXES and bool(key)
