"""Uploading to a stand-in for the Hub: what goes there, what does not, and what is said."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from continual import lineage, push
from continual.errors import ContinualError

REPO = "somebody/legs"


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a commit needs; `server.got` keeps what came."""

    def do_POST(self) -> None:
        told = self.rfile.read(int(self.headers["Content-Length"]))
        got, path = self.server.got, self.path.split("?")[0]  # type: ignore[attr-defined]
        got["tokens"].add(self.headers["Authorization"])
        if self.server.refuses:  # type: ignore[attr-defined]
            self.answer({"error": "You don't have the rights to create a model"}, 403)
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            got["created"].append(json.loads(told))
            self.answer({"url": f"{self.server.address}/{REPO}", "name": REPO, "id": REPO})  # type: ignore[attr-defined]
        elif path == f"/api/models/{REPO}/preupload/main":
            files = [file["path"] for file in json.loads(told)["files"]]
            large = {True: "lfs", False: "regular"}
            modes = [
                {"path": f, "uploadMode": large[f.endswith(".safetensors")], "shouldIgnore": False} for f in files
            ]
            self.answer({"files": modes})
        elif path == f"/{REPO}.git/info/lfs/objects/batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/store/{one['oid']}"}}}  # type: ignore[attr-defined]
                for one in json.loads(told)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif path == f"/api/models/{REPO}/commit/main":
            for line in told.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    got["files"][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    got["files"][entry["value"]["path"]] = got["stored"][entry["value"]["oid"]]
            self.answer({"commitUrl": f"{self.server.address}/{REPO}/commit/1", "commitOid": "1", "success": True})
        else:
            self.answer({"error": f"nothing at {path}"}, 404)

    def do_PUT(self) -> None:
        self.server.got["stored"][self.path.rpartition("/")[2]] = self.rfile.read(  # type: ignore[attr-defined]
            int(self.headers["Content-Length"])
        )
        self.answer({})

    def answer(self, content: Any, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.got = {"tokens": set(), "created": [], "stored": {}, "files": {}}
    server.refuses, server.address = False, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter's folder as a run leaves it, with what is nobody's business beside it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    made = tmp_path / "legs"
    get_peft_model(tiny.model(), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")).save_pretrained(
        made
    )
    tiny.tokenizer(True).save_pretrained(made)
    lineage.write(made, {**lineage.manifest_of(made), "base": "org/small"})
    (made / "methods.json").write_text('["a real row"]')
    (made / "trained.json").write_text("{}")
    (made / ".env").write_text("SECRET=1")
    (made / "more").mkdir()
    (made / "more" / "config.json").write_text("{}")
    return made


def command(hub: Any, *words: str, token: str | None = "hf_test") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the library reads the Hub's address when it is imported."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    given = {"HF_TOKEN": token} if token else {}
    environment = {**known, "HF_ENDPOINT": hub.address, "HF_HOME": "/nonexistent", "HF_HUB_DISABLE_XET": "1", **given}
    code = "from continual.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "push", *words], env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_adapter_s_own_files_go_to_the_hub_and_nothing_else(hub: Any, folder: Path) -> None:
    done = command(hub, str(folder), REPO, "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"/{REPO}/commit/1")
    wanted = (
        "README.md manifest.json adapter_config.json adapter_model.safetensors tokenizer.json tokenizer_config.json"
    )
    assert set(hub.got["files"]) == {*wanted.split(), "chat_template.jinja"}
    assert all(content == (folder / name).read_bytes() for name, content in hub.got["files"].items())
    assert hub.got["tokens"] == {"Bearer hf_test"}
    assert hub.got["created"][0]["name"] == "legs" and hub.got["created"][0]["organization"] == "somebody"
    assert hub.got["created"][0].get("private") is True or hub.got["created"][0].get("visibility") == "private"


def test_a_dry_run_lists_the_files_and_sends_nothing(hub: Any, folder: Path) -> None:
    done = command(hub, str(folder), REPO, "--dry-run", token=None)
    assert done.returncode == 0, done.stderr
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert f"  adapter_model.safetensors  {size:,} bytes" in done.stdout.splitlines()
    assert "methods.json" not in done.stdout and ".env" not in done.stdout and "mind:" not in done.stdout
    assert hub.got["tokens"] == set()


@pytest.mark.parametrize(("token", "said"), [(None, "there is no token for the Hub"), ("hf_bad", "did not take it")])
def test_what_the_hub_refuses_is_one_line(hub: Any, folder: Path, token: str | None, said: str) -> None:
    hub.refuses = True
    done = command(hub, str(folder), REPO, token=token)
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "hf_bad" not in done.stderr
    assert hub.got["files"] == {}


@pytest.mark.parametrize("repo", ["legs", "a/b/c", "/abs/legs", "./legs"])
def test_a_repository_has_an_owner_and_a_name(folder: Path, repo: str) -> None:
    with pytest.raises(ContinualError, match="owner/name"):
        push.pack(folder, repo)


def test_a_base_that_others_have_not_is_told(folder: Path) -> None:
    lineage.write(folder, {**lineage.manifest_of(folder), "base": "/some/where"})
    assert "mind: its base, /some/where, is not on the Hub" in push.pack(folder, REPO).lines[-1]
