"""A Hub in memory, over real HTTP: what the clients of huggingface_hub, transformers and peft ask of the real one.

Repositories have a history of whole-tree snapshots, each under a commit of 40 hex digits. Faults are injected by the
method and path of a request. Clients are pointed at it by `HF_ENDPOINT`, which they read once, at import: run them in
processes of their own (`HubClient`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import forks
import yaml

Tree = dict[str, bytes]


class Refusal(Exception):
    """A status with the Hub's error headers."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if code:
            self.headers["X-Error-Code"] = code
        if message:
            self.headers["X-Error-Message"] = message


@dataclass
class Fault:
    """Makes the next `times` requests that match fail: a status, `reset` in the middle of the body, or `slow`."""

    request: str
    kind: int | str
    times: int = 1
    seconds: float = 0.0


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Tree] = field(default_factory=dict)
    log: list[tuple[str, str, str]] = field(default_factory=list)
    """Commits as (revision, sha, message), the oldest first."""

    def commit(self, revision: str, tree: Tree, message: str) -> str:
        parent = self.refs.get(revision, "")
        names = "".join(f"{path}\0{hashlib.sha1(data).hexdigest()}\n" for path, data in sorted(tree.items()))
        sha = hashlib.sha1(f"{len(self.log)}{parent}{message}{names}".encode()).hexdigest()
        self.commits[sha] = dict(tree)
        self.refs[revision] = sha
        self.log.append((revision, sha, message))
        return sha

    @property
    def files(self) -> Tree:
        """What is on main, without the Hub's own file."""
        return {path: data for path, data in self.commits[self.refs["main"]].items() if path != ".gitattributes"}


@dataclass
class User:
    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()


class HubServer:
    """The server; `with HubServer() as hub` runs it in a thread at `hub.url`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.users = {
            "hf_writertoken": User("me", orgs=("lab",)),
            "hf_readertoken": User("me", role="read"),
            "hf_strangertoken": User("stranger"),
        }
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo_id: str, files: Path | Tree, **options: Any) -> str:
        """Commit files to main of a repository, which is made if need be; gives the commit."""
        repo = self.repos.setdefault(repo_id, Repo(**options))
        tree = files if isinstance(files, dict) else {
            str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()
        }  # fmt: skip
        return repo.commit("main", tree, "add")


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD

    # -- plumbing -----------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        hub = self.server_hub
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        request = f"{self.command} {url.path}"
        hub.requests.append(request)
        fault = next((f for f in hub.faults if f.times and re.search(f.request, request)), None)
        length = int(self.headers.get("Content-Length") or 0)
        if fault:
            fault.times -= 1
            if fault.kind == "reset":
                self.rfile.read(length // 2)
                # lingering for no time makes close() send a reset instead of an orderly end
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            time.sleep(fault.seconds)
        body = self.rfile.read(length) if length else self._chunks()
        try:
            if fault and isinstance(fault.kind, int):
                raise Refusal(fault.kind, message="injected", **({"Retry_After": "0"} if fault.kind == 429 else {}))
            status, headers, answer = self._route(unquote(url.path), body)
        except Refusal as refusal:
            status, headers, answer = refusal.status, refusal.headers, {"error": refusal.message}
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _chunks(self) -> bytes:
        parts = []
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        name = r"(?P<repo>[\w.-]+/[\w.-]+|[\w.-]+)"
        routes = {
            r"GET /api/whoami-v2": self._whoami,
            r"POST /api/validate-yaml": self._validate_yaml,
            r"POST /api/repos/create": self._create,
            rf"POST /api/models/{name}/preupload/(?P<rev>.+)": self._preupload,
            rf"POST /api/models/{name}/commit/(?P<rev>.+)": self._commit,
            rf"POST /api/models/{name}/branch/(?P<rev>.+)": self._branch,
            rf"POST /{name}\.git/info/lfs/objects/batch": self._lfs_batch,
            r"PUT /lfs/(?P<oid>\w+)": self._lfs_put,
            rf"GET /api/models/{name}/tree/(?P<rev>[^/]+)(/(?P<folder>.+))?": self._tree,
            rf"GET /api/models/{name}(/revision/(?P<rev>.+))?": self._info,
            rf"(GET|HEAD) /{name}/resolve/(?P<rev>refs/pr/\d+|[^/]+)/(?P<path>.+)": self._resolve,
        }
        for pattern, answer in routes.items():
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                named = {key: value for key, value in match.groupdict().items() if value is not None}
                return answer(body=body, **named)
        raise Refusal(404, message=f"no route for {self.command} {path}")

    # -- who may do what ----------------------------------------------------------------------------------------------

    def _user(self) -> User | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.server_hub.users:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return self.server_hub.users.get(token)

    def _repo(self, repo_id: str) -> Repo:
        user, repo = self._user(), self.server_hub.repos.get(repo_id)
        owner = repo_id.partition("/")[0]
        if repo is None or (repo.private and not (user and owner in (user.name, *user.orgs))):
            raise Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        return repo

    def _check_writer(self, owner: str) -> User:
        user = self._user()
        if user is None:
            raise Refusal(401, message="Invalid username or password.")
        if user.role != "write" or owner not in (user.name, *user.orgs):
            raise Refusal(403, message=f"You don't have the rights to write under the namespace {owner}")
        return user

    def _at(self, repo: Repo, revision: str) -> tuple[str, Tree]:
        sha = repo.refs.get(revision, revision)
        if sha not in repo.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repo.commits[sha]

    # -- routes -------------------------------------------------------------------------------------------------------

    def _whoami(self, body: bytes) -> tuple[int, dict[str, str], Any]:
        user = self._user()
        if user is None:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        auth = {"accessToken": {"displayName": "test", "role": user.role}}
        orgs = [{"name": org} for org in user.orgs]
        return 200, {}, {"type": "user", "name": user.name, "orgs": orgs, "auth": auth}

    def _validate_yaml(self, body: bytes) -> tuple[int, dict[str, str], Any]:
        try:
            data = yaml.safe_load(_front_matter(json.loads(body)["content"]))
            errors = [] if isinstance(data, dict) else [{"message": "the metadata are no mapping"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        return 400 if errors else 200, {}, {"errors": errors, "warnings": []}

    def _create(self, body: bytes) -> tuple[int, dict[str, str], Any]:
        wanted = json.loads(body)
        user = self._user()
        owner = wanted.get("organization") or (user.name if user else "")
        self._check_writer(owner)
        repo_id = f"{owner}/{wanted['name']}"
        url = {"url": f"{self.server_hub.url}/{repo_id}"}
        if repo_id in self.server_hub.repos:
            return 409, {}, url | {"error": "You already created this model repo"}
        self.server_hub.add(
            repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=wanted.get("visibility") == "private"
        )
        return 200, {}, url

    def _info(self, body: bytes, repo: str, rev: str = "main") -> tuple[int, dict[str, str], Any]:
        found = self._repo(repo)
        sha, tree = self._at(found, rev)
        try:
            card = yaml.safe_load(_front_matter(tree.get("README.md", b"").decode())) or {}
        except yaml.YAMLError:
            card = {}
        info = {
            "id": repo,
            "modelId": repo,
            "sha": sha,
            "private": found.private,
            "gated": "manual" if found.gated else False,
            "cardData": card,
            "tags": card.get("tags", []),
            "library_name": card.get("library_name"),
            "siblings": [{"rfilename": path} for path in sorted(tree)],
        }
        return 200, {}, info

    def _tree(self, body: bytes, repo: str, rev: str, folder: str = "") -> tuple[int, dict[str, str], Any]:
        """The files below a folder, at any depth; the real Hub gives those in it and its folders."""
        _, tree = self._at(self._repo(repo), rev)
        tree = {path: data for path, data in tree.items() if path.startswith(f"{folder}/" if folder else "")}
        if folder and not tree:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {rev}")
        return 200, {}, [
            {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)} for path, data in tree.items()
        ]  # fmt: skip

    def _resolve(self, body: bytes, repo: str, rev: str, path: str) -> tuple[int, dict[str, str], Any]:
        found = self._repo(repo)
        if found.gated and (user := self._user()) is None:
            raise Refusal(401, "GatedRepo", f"Access to model {repo} is restricted")
        if found.gated and user and user.name != repo.partition("/")[0]:
            raise Refusal(403, "GatedRepo", f"Access to model {repo} is restricted")
        sha, tree = self._at(found, rev)
        if path not in tree:
            raise Refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=sha)
        data = tree[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            return 206, headers, data[start : end + 1]
        return 200, headers, data

    def _preupload(self, body: bytes, repo: str, rev: str) -> tuple[int, dict[str, str], Any]:
        _, tree = self._at(self._repo(repo), rev)
        files = []
        for file in json.loads(body)["files"]:
            lfs = file["path"].endswith(".safetensors")
            there = tree.get(file["path"])
            oid = None if there is None else hashlib.sha256(there).hexdigest() if lfs else _git_oid(there)
            mode = "lfs" if lfs else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {}, {"files": files}

    def _lfs_batch(self, body: bytes, repo: str) -> tuple[int, dict[str, str], Any]:
        self._repo(repo)
        objects = []
        for item in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.server_hub.url}/lfs/{item['oid']}", "header": {}}}
            objects.append(item | ({} if item["oid"] in self.server_hub.lfs else {"actions": upload}))
        return 200, {}, {"transfer": "basic", "objects": objects}

    def _lfs_put(self, body: bytes, oid: str) -> tuple[int, dict[str, str], Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, message="the content is not that of the object")
        self.server_hub.lfs[oid] = body
        return 200, {}, b""

    def _branch(self, body: bytes, repo: str, rev: str) -> tuple[int, dict[str, str], Any]:
        self._check_writer(repo.partition("/")[0])
        found = self._repo(repo)
        if rev in found.refs:
            return 409, {}, {"error": "Reference already exists"}
        found.refs[rev] = self._at(found, json.loads(body).get("startingPoint") or "main")[0]
        return 200, {}, {}

    def _commit(self, body: bytes, repo: str, rev: str) -> tuple[int, dict[str, str], Any]:
        pull = "create_pr" in self.query
        found = self._repo(repo)
        if not pull:
            self._check_writer(repo.partition("/")[0])
        elif self._user() is None:
            raise Refusal(401, message="Invalid username or password.")
        head, tree = self._at(found, rev)
        tree, message = dict(tree), ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, head):
                    raise Refusal(412, message="A commit has happened since. Please refresh and try again.")
            elif item["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                tree[value["path"]] = self.server_hub.lfs[value["oid"]]
            elif item["key"] == "deletedFile":
                del tree[value["path"]]
        if pull:
            rev = f"refs/pr/{1 + sum(ref.startswith('refs/pr/') for ref in found.refs)}"
        sha = found.commit(rev, tree, message)
        url = f"{self.server_hub.url}/{repo}"
        answer = {"commitUrl": f"{url}/commit/{sha}", "commitOid": sha, "success": True}
        if pull:
            answer["pullRequestUrl"] = f"{url}/discussions/{rev.rpartition('/')[2]}"
        return 200, {}, answer


def _front_matter(text: str) -> str:
    return text.split("---", 2)[1] if text.startswith("---") else ""


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubClient:
    """A process with the real clients, pointed at a Hub; it imports them once and then runs snippet after snippet.

    A snippet finds `cli(*args)`, which runs `t2l` and gives (exit code, stdout, stderr), `refusal(call)`, which gives
    the text of the error that a call raises, and `no_waiting()`, after which the retries of the client cost no time.
    It leaves its result in `result`, as JSON.
    """

    def __init__(self, url: str, home: Path, **environment: str):
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        variables |= {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._process = forks.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / "stderr").open("w"),
            env=variables | environment,
            text=True,
        )
        self.home, self.output = home, ""
        """`output` is everything that snippets have printed; what was logged outside them joins it at the end."""

    def __call__(self, code: str, token: str | None = None, cwd: Path | None = None, **names: Any) -> Any:
        """Run a snippet, with a token in HF_TOKEN or none, in a folder; `names` are its globals."""
        assert self._process.stdin
        assert self._process.stdout
        order = {"code": textwrap.dedent(code), "token": token, "cwd": str(cwd) if cwd else None, "names": names}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.output += answer["output"]
        assert not answer["error"], answer["error"] + answer["output"]
        return answer["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(600)
        self.output += (self.home / "stderr").read_text()


_WORKER = """
import contextlib, io, json, os, sys, time, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

def cli(*args):
    import huggingface_hub
    from text2lora.cli import main
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["t2l", *map(str, args)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    print(out.getvalue(), err.getvalue())
    return code, out.getvalue(), err.getvalue()

def refusal(call):
    try:
        call()
    except Exception as error:
        print(error)
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"

@contextlib.contextmanager
def no_waiting():
    sleep, time.sleep = time.sleep, lambda seconds: None
    try:
        yield
    finally:
        time.sleep = sleep

for line in sys.stdin:
    order = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if order["token"]:
        os.environ["HF_TOKEN"] = order["token"]
    if order["cwd"]:
        os.chdir(order["cwd"])
    names = {"cli": cli, "refusal": refusal, "no_waiting": no_waiting, "result": None} | order["names"]
    said, failed = io.StringIO(), ""
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            exec(order["code"], names)
        except BaseException:
            failed = traceback.format_exc()
    answers.write(json.dumps({"result": names["result"], "output": said.getvalue(), "error": failed}) + "\\n")
    answers.flush()
"""
