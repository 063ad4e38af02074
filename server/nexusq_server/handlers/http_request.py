"""HTTP_REQUEST: one HTTP call a task, to hosts that the operator allows."""

from __future__ import annotations

from collections.abc import Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Any, Literal

import httpx
from msgspec import Meta

from nexusq_sdk.tasks import task
from nexusq_server.settings import Settings

#: What of an answer's body is kept as the result.
MAX_BODY_CHARS = 100_000
#: How much of it is read: enough for so many characters of UTF-8.
MAX_BODY_BYTES = 4 * MAX_BODY_CHARS


class HostNotAllowed(PermissionError):
    """The URL's host is not one that the worker's settings allow."""


def http_handler(settings: Settings) -> Callable[..., Any]:
    """Make the handler that calls the settings' allowed hosts. It follows no redirect: that could leave them."""
    # No cookies: what one task is given is no business of the next one.
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    client = httpx.Client(follow_redirects=False, cookies=cookies)

    @task("HTTP_REQUEST")
    def http_request(
        url: Annotated[str, Meta(pattern=r"^https?://")],
        method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET",
        headers: dict[str, str] | None = None,
        json: Any = None,
        timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 30.0,
    ) -> dict[str, Any]:
        """Call a URL; an answer of 4xx or 5xx fails the task."""
        host = httpx.URL(url).host
        if host not in settings.http_hosts:
            raise HostNotAllowed(
                f"expected the host to be one of {sorted(settings.http_hosts)}, got {host!r}; "
                f"the operator allows hosts by NEXUSQ_HTTP_HOSTS"
            )
        body = b""
        with client.stream(method, url, headers=headers, json=json, timeout=timeout_seconds) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) >= MAX_BODY_BYTES:
                    break
        text = body.decode(answer.encoding or "utf-8", errors="replace")
        return {"status": answer.status_code, "body": text[:MAX_BODY_CHARS]}

    return http_request
