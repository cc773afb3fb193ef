"""A server that speaks the part of the Hugging Face Hub's protocol that uploads and downloads of small files use.

It serves on a free port of this machine and keeps repositories in memory. Requests with the token "reader" may not
write; "broken/..." answers with HTTP 500. The library that talks to it is the real one.
"""

import base64
import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]
REPOSITORIES: dict[str, list[Files]] = {}
"""OWNER/NAME -> its commits, oldest first, each with all files."""

PRIVATE: set[str] = set()


def commit_name(repository: str, number: int) -> str:
    """The name of a commit, which has the form of a digest of git."""
    return hashlib.sha1(f"{repository} {number}".encode()).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the name in the base class)
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        words = unquote(urlsplit(self.path).path).strip("/").split("/")
        if words[:2] == ["api", "whoami-v2"]:
            self.answer(200, {"name": "anna", "type": "user", "orgs": []})
            return
        api = words[:2] == ["api", "models"]
        repository, *words = ["/".join(words[2:4] if api else words[:2]), *(words[4:] if api else words[2:])]
        words = words or ["revision", "main"]
        if repository.startswith("broken/"):
            self.answer(500, {"error": "out of order"})
        elif repository not in REPOSITORIES or (repository in PRIVATE and not self.token):
            self.answer(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif (found := self.commit(repository, words[1])) is None:
            self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif words[0] == "revision":
            commit, files = found
            self.answer(200, {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]})
        elif words[0] == "tree":
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in found[1].items()
            ]
            self.answer(200, listed)
        elif words[2] not in found[1]:
            self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        else:
            content = found[1][words[2]]
            headers = {"X-Repo-Commit": found[0], "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            self.answer(200, content, headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        words = urlsplit(self.path).path.strip("/").split("/")
        if words == ["api", "validate-yaml"]:
            self.answer(200, {"errors": [], "warnings": []})
        elif self.token in {"", "reader"}:
            self.answer(403, {"error": "no right to write"})
        elif words == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'anna'}/{wanted['name']}"
            known = name in REPOSITORIES
            REPOSITORIES.setdefault(name, [{}])
            if (wanted.get("private") or wanted.get("visibility") == "private") and not known:
                PRIVATE.add(name)
            self.answer(409 if known else 200, {"url": f"http://{self.headers['Host']}/{name}"})
        elif words[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        else:
            self.take_commit("/".join(words[2:4]), body)

    def take_commit(self, repository: str, body: bytes) -> None:
        files = dict(REPOSITORIES[repository][-1])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        REPOSITORIES[repository].append(files)
        commit = commit_name(repository, len(REPOSITORIES[repository]) - 1)
        address = f"http://{self.headers['Host']}/{repository}/commit/{commit}"
        self.answer(200, {"success": True, "commitOid": commit, "commitUrl": address})

    def commit(self, repository: str, revision: str) -> tuple[str, Files] | None:
        commits = REPOSITORIES[repository]
        names = [commit_name(repository, number) for number in range(len(commits))]
        if revision == "main":
            return names[-1], commits[-1]
        return next(((name, files) for name, files in zip(names, commits, strict=True) if name == revision), None)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def answer(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serving(home: Path, token: str = "writer") -> Generator[str]:
    """Let huggingface_hub talk to this server, with its cache in a folder; yields the address."""
    from huggingface_hub import constants

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server, pytest.MonkeyPatch.context() as patch:
        address = f"http://127.0.0.1:{server.server_port}"
        patch.setenv("HF_TOKEN", token)
        patch.setattr(constants, "ENDPOINT", address)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(home))
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield address
        finally:
            server.shutdown()
