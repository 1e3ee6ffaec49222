"""A stand-in for the Hugging Face Hub on this machine: what `huggingface_hub` asks of it to push and to load models."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CREATE = "/api/repos/create"
VALIDATE = "/api/validate-yaml"
MODEL = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)(/(?P<verb>\w+)/(?P<revision>[^/]+))?")
FILE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a history of commits, a file of which is its bytes by name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.visibility: dict[str, str | None] = {}
        self.gated: set[str] = set()
        self.token = "hf_write"
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        history = self.repositories.setdefault(repository, {})
        name = hashlib.sha1(f"{repository} {len(history)}".encode()).hexdigest()
        history[name] = files
        return name

    def newest(self, repository: str) -> dict[str, bytes]:
        return list(self.repositories[repository].values())[-1]


class Answer(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, content: bytes | dict[str, Any] | list[Any], status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(path)
        asked = FILE.fullmatch(path) or MODEL.fullmatch(path)
        assert asked, path
        repository, revision = asked["repository"], asked["revision"] or "main"
        history = self.hub.repositories.get(repository)
        if history is None:
            return self.answer({}, 404, X_Error_Code="RepoNotFound")
        if repository in self.hub.gated:
            return self.answer({}, 403, X_Error_Code="GatedRepo")
        commit = list(history)[-1] if revision == "main" else revision
        if commit not in history:
            return self.answer({}, 404, X_Error_Code="RevisionNotFound")
        files = history[commit]
        if file := asked.groupdict().get("file"):
            return self.answer(files[file], X_Repo_Commit=commit, ETag=hashlib.sha1(files[file]).hexdigest())
        if asked["verb"] == "tree":
            return self.answer(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
            )
        return self.answer({"id": repository, "sha": commit})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == VALIDATE:
            return self.answer({"errors": [], "warnings": []})
        if self.headers["Authorization"] != f"Bearer {self.hub.token}":
            return self.answer({"error": "You may not write here"}, 403)
        if self.path == CREATE:
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            if repository not in self.hub.repositories:
                self.hub.visibility[repository] = asked.get("visibility")
                self.hub.commit(repository, {".gitattributes": b""})
            return self.answer({"url": f"{self.hub.url}/{repository}"})
        asked = MODEL.fullmatch(self.path)
        assert asked, self.path
        if asked["verb"] == "preupload":
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            return self.answer({"files": files})
        files = dict(self.hub.newest(asked["repository"]))
        for change in map(json.loads, body.splitlines()):
            if change["key"] == "file":
                files[change["value"]["path"]] = base64.b64decode(change["value"]["content"])
            elif change["key"] == "deletedFile":
                del files[change["value"]["path"]]
        name = self.hub.commit(asked["repository"], files)
        url = f"{self.hub.url}/{asked['repository']}/commit/{name}"
        return self.answer({"success": True, "commitOid": name, "commitUrl": url})


@contextmanager
def serving() -> Iterator[Hub]:
    """A stand-in that answers until the end of the block."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
