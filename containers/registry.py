"""Asking a registry which image a name means, without fetching it.

Knows the few calls of the distribution protocol (github.com/opencontainers/distribution-spec, "Pulling
manifests") and of its tokens. Must not know engines. Nobody being able to answer is a normal case: nodes of a
cluster often have no way out, and private registries want credentials that only the engine has.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from toilcache.errors import ContainerImageError

ANSWER_SECONDS = 10.0
_DEFAULT, _DEFAULT_API = "docker.io", "registry-1.docker.io"
_ACCEPTED = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_NAME = re.compile(
    r"(?P<path>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_HOST = re.compile(r"localhost|[^/]*[.:][^/]*")
_FIELD = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Name:
    """The name of an image in a registry; printed as every engine understands it."""

    host: str
    path: str
    tag: str
    digest: str | None = None

    def __str__(self) -> str:
        return f"{self.host}/{self.path}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def is_local(self) -> bool:
        """Whether the registry is on this machine, where none has a certificate."""
        return self.host.partition(":")[0] in ("localhost", "127.0.0.1")


def parse(text: str) -> Name:
    """Read a name such as "python:3.12", "quay.io/org/tool:1" or "host:5000/tool@sha256:...".

    :raises ContainerImageError: it is none.
    """
    first, slash, rest = text.partition("/")
    host, path = (first, rest) if slash and _HOST.fullmatch(first) else (_DEFAULT, text)
    found = _NAME.fullmatch(path)
    if found is None:
        raise ContainerImageError(
            f"cannot use {text!r} as an image: it is no name in a registry; "
            "write docker://NAME:TAG, docker-archive:FILE, docker-daemon:NAME or FILE.sif"
        )
    plain = found["path"]
    if host == _DEFAULT and "/" not in plain:
        plain = f"library/{plain}"
    return Name(host, plain, found["tag"] or "latest", found["digest"])


def digest(name: Name) -> str | None:
    """Return the digest of what a name means now; None if the registry does not tell."""
    import urllib.error

    if name.digest is not None:
        return name.digest
    host = _DEFAULT_API if name.host == _DEFAULT else name.host
    scheme = "http" if name.is_local else "https"
    url = f"{scheme}://{host}/v2/{name.path}/manifests/{name.tag}"
    try:
        try:
            return _ask(url, None)
        except urllib.error.HTTPError as error:
            challenge = error.headers.get("WWW-Authenticate", "")
            error.close()
            if error.code != 401 or not challenge.startswith("Bearer "):
                return None
            return _ask(url, _token(dict(_FIELD.findall(challenge))))
    except (OSError, ValueError):  # URLError is an OSError
        return None


def _ask(url: str, token: str | None) -> str | None:
    from urllib.request import Request

    headers = {"Accept": _ACCEPTED, **({"Authorization": f"Bearer {token}"} if token else {})}
    found = _open(Request(url, method="HEAD", headers=headers))[0].get("Docker-Content-Digest")
    return found if found and re.fullmatch(r"sha256:[0-9a-f]{64}", found) else None


def _token(challenge: dict[str, str]) -> str:
    from urllib.parse import urlencode
    from urllib.request import Request

    query = urlencode([(name, challenge[name]) for name in ("service", "scope") if name in challenge])
    realm = challenge.get("realm", "")
    if not realm.startswith(("https://", "http://localhost", "http://127.0.0.1")):
        raise ValueError(f"cannot trust {realm!r} with a request for a token")
    answer = json.loads(_open(Request(f"{realm}?{query}"))[1])
    return str(answer.get("token") or answer.get("access_token") or "")


def _open(request: object) -> tuple[dict[str, str], bytes]:
    from typing import Any, cast
    from urllib.request import urlopen

    with urlopen(cast(Any, request), timeout=ANSWER_SECONDS) as answer:
        return {**answer.headers}, answer.read()
