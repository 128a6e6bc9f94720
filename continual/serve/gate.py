"""What every request passes: whether the server still takes any, the key, and the headers of every reply."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from continual.serve.errors import ApiError
from continual.serve.metrics import Metrics

COUNTED = ("/v1/chat/completions", "/v1/completions")
KEYED = ("/v1/", "/api/", "/metrics")
HEADERS = {
    # The page has all it needs beside it; nothing of another place may run in it, or show it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Gate:
    """ASGI middleware; see the module.

    Args:
        key: what ``Authorization: Bearer …`` must bring, if anything.
        hosts: the only names under which the server may be addressed; all where empty. Else a page of another site
            whose name is made to mean this machine could ask in its visitor's place.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, key: str | None, hosts: Sequence[str]) -> None:
        self.app, self.metrics, self.key, self.hosts = app, metrics, key, frozenset(hosts)
        self.active = 0
        """Requests that have not been answered to the end."""
        self.stopping = False
        """Whether no new ones are taken."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in HEADERS.items():
                    MutableHeaders(scope=message)[name] = value
                if scope["path"] in COUNTED and scope["method"] == "POST":
                    model = scope.get("continual.model", "unknown")
                    self.metrics.requests.labels(model, str(message["status"])).inc()
            await send(message)

        self.active += 1
        try:
            self._pass(scope)
            await self.app(scope, receive, sending)
        except ApiError as error:
            await error.response()(scope, receive, sending)
        finally:
            self.active -= 1

    def _pass(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self.hosts and re.sub(r":\d+$", "", headers.get("host", "").lower()).strip("[]") not in self.hosts:
            raise ApiError(403, "this server is asked by another name than its own")
        if self.stopping:
            raise ApiError(503, "the server is stopping", "stopping")
        if self.key is not None and scope["path"].startswith(KEYED):
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.key.encode()):
                raise ApiError(401, "the API key is wrong or missing", "invalid_api_key")
