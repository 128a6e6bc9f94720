"""What goes wrong in a request, in the shape that OpenAI's clients know."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    413: {"Connection": "close"},  # else the rest of the body is received to its end, however long it is
    429: {"Retry-After": "1"},
}


class ApiError(Exception):
    """A request that cannot be answered.

    Args:
        status: of HTTP.
        message: what is wrong, for a person.
        code: what is wrong, for a program.
        param: the key of the body that is to blame.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, HEADERS.get(self.status))
