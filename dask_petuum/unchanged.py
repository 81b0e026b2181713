"""An estimator whose fit ends with an error is what it was before."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["unchanged_by_errors"]

Method = TypeVar("Method", bound=Callable[..., Any])


def unchanged_by_errors(method: Method) -> Method:
    """Decorate a ``fit`` or ``partial_fit``: an error takes back what it has set.

    So the width of refused rows never stands beside the weights of an older model. Attributes are
    put back as they were: the method must replace what was learnt, and not write into it. Ctrl-C is
    no error: the estimator keeps what it had learnt by then.
    """

    @functools.wraps(method)
    def guarded(estimator: Any, *args: Any, **keywords: Any) -> Any:
        before = dict(vars(estimator))
        try:
            return method(estimator, *args, **keywords)
        except Exception:
            vars(estimator).clear()
            vars(estimator).update(before)
            raise

    return cast(Method, guarded)
