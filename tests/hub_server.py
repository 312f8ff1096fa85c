"""A small server of the hub's HTTP interface on 127.0.0.1, for the unmodified hub client."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """A model on the server.

    Attributes:
        revisions: branch, tag or commit -> commit.
        folders: commit -> the folder that holds its files.
    """

    revisions: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)

    def add(self, folder: Path, *names: str) -> str:
        """Add a commit under `names`; gives its hash."""
        commit = hashlib.sha1(str(folder).encode()).hexdigest()
        self.folders[commit] = folder
        self.revisions |= dict.fromkeys((commit, *names), commit)
        return commit


class HubServer(ThreadingHTTPServer):
    """Serves `repositories` (hub id -> Repository); `downloads` are the files that were fetched."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.downloads: set[str] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_error) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        # /api/models/ORG/NAME[/revision/REV | /tree/REV] and /ORG/NAME/resolve/REV/FILE
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        repository = self.server.repositories.get("/".join(parts[:2]))
        if repository is None:
            return self._refuse(401, "RepoNotFound")  # the hub does not say what exists
        action, revision = (*parts[2:4], "main")[:2] if len(parts) > 3 else ("revision", "main")
        commit = repository.revisions.get(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        folder = repository.folders[commit]
        if is_api and action == "tree":
            return self._send(json.dumps([_describe(path) for path in sorted(folder.iterdir())]))
        if is_api:
            name = "/".join(parts[:2])
            return self._send(json.dumps({
                "id": name, "modelId": name, "sha": commit, "tags": [], "private": False,
                "siblings": [{"rfilename": path.name} for path in sorted(folder.iterdir())],
            }))
        return self._send_file(folder / parts[4], commit)

    def _send_file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        if self.command == "GET":
            self.server.downloads.add(path.name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._send(path.read_bytes(), {"X-Repo-Commit": commit, "ETag": f'"{digest}"'})

    def _refuse(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code}
        self._send(json.dumps({"error": code}), headers, status)

    def _send(
        self, body: str | bytes, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def _describe(path: Path) -> dict:
    data = path.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return {"type": "file", "oid": oid, "size": len(data), "path": path.name}
