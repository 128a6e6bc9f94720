"""Adapters that come and go while the server runs, by vLLM's two routes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from continual.errors import ContinualError
from continual.lora import CONFIG, WEIGHTS
from continual.serve.bodies import LoadBody, UnloadBody, read
from continual.serve.errors import ApiError
from continual.serve.roster import Roster, proper


class Loading:
    """Both routes.

    Args:
        allowed: folders from which adapters may be loaded; without any neither route does anything.
    """

    def __init__(self, roster: Roster, allowed: Sequence[Path]) -> None:
        self.roster, self.allowed = roster, [folder.resolve() for folder in allowed]
        self._one = asyncio.Lock()

    async def load(self, http: Request) -> Response:
        self._permitted()
        body = await read(http, LoadBody)
        folder = await asyncio.to_thread(self._inside, body.lora_path)
        async with self._one:
            try:
                self.roster.check(proper(body.lora_name), again=body.load_inplace)
                await asyncio.to_thread(self.roster.bank.load, body.lora_name, folder)
            except ContinualError as error:
                raise ApiError(400, str(error)) from error
            self.roster.put(body.lora_name, folder)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload(self, http: Request) -> Response:
        self._permitted()
        body = await read(http, UnloadBody)
        self.roster.remove(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    def _permitted(self) -> None:
        if not self.allowed:
            raise ApiError(403, "this server was not started with --allow-load: its adapters stay as they are")

    def _inside(self, path: str) -> Path:
        """An adapter's folder, links followed, if it and its files lie in an allowed one.

        Raises:
            ApiError: they do not; of what lies elsewhere not even whether it exists is told. Or it is no path.
        """
        if "\0" in path:
            raise ApiError(400, "a path has no NUL in it", None, "lora_path")
        for root in self.allowed:
            folder = (root / path).resolve()
            files = [(folder / name).resolve() for name in (CONFIG, WEIGHTS)]
            if all(place.is_relative_to(root) for place in (folder, *files)):
                if all(os.path.isfile(file) for file in files):  # false of a name that is too long, too
                    return folder
                raise ApiError(404, f"there is no adapter at '{path}'", None, "lora_path")
        raise ApiError(403, f"'{path}' is not in a folder that --allow-load names", None, "lora_path")
