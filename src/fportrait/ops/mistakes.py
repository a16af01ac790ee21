"""A user's mistake, found at the bottom of what an orchestrator raised."""

from __future__ import annotations

from fportrait.errors import UserError
from fportrait.ops.store import store_error


def user_error(error: BaseException | None) -> UserError | None:
    """The `UserError` at the bottom of a chain of causes, if there is one, or what an MLflow store raised, in words."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        if type(error).__module__.split(".")[0] in ("mlflow", "sqlalchemy"):
            known = store_error(error)
            if known is not None:
                return known
        error = error.__cause__ or error.__context__
    return None
