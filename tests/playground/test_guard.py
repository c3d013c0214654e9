"""What stands before the pages: headers, the token's cookie, and refusals of what other sites send."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from playground.guard import COOKIE, POLICY

TOKEN = "correct-horse-battery"


@pytest.mark.parametrize(
    "path", ["/", "/playground", "/compare", "/no-such", "/assets/style.css", "/healthz"]
)
def test_every_answer_binds_the_browser(
    serve: Callable[..., httpx.Client], tmp_path: Path, path: str
) -> None:
    headers = serve(tmp_path).get(path).headers
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    for word in ("unsafe", "http:", "https:", "data:", "*"):
        assert word not in POLICY


def test_another_sites_page_and_another_name_are_refused(
    serve: Callable[..., httpx.Client], tmp_path: Path
) -> None:
    page = serve(tmp_path)
    form = {"message": "f(n) n + 1"}
    assert page.post("/playground", data=form, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 400
    assert page.post("/playground", data=form, headers={"Sec-Fetch-Site": "same-site"}).status_code == 400
    # DNS rebinding: the name is the other site's, the address ours.
    assert page.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_with_a_token_nothing_is_shown_before_it_was_given(
    serve: Callable[..., httpx.Client], tmp_path: Path
) -> None:
    page = serve(tmp_path, token=TOKEN)
    there = page.get("/runs/a")
    assert (there.status_code, there.headers["location"]) == (303, "/login?next=/runs/a")
    assert page.get("/", headers={"Accept": "application/json"}).status_code == 401
    assert page.post("/playground", data={"message": "x"}).status_code == 401
    assert page.get("/assets/style.css").status_code == 200
    assert "<script src" in page.get("/login").text
    assert page.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert page.get("/", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_the_token_once_given_lets_a_browser_in_by_a_cookie_that_does_not_hold_it(
    serve: Callable[..., httpx.Client], tmp_path: Path
) -> None:
    page = serve(tmp_path, token=TOKEN)
    refused = page.post("/login", data={"token": "wrong"})
    assert refused.status_code == 200 and "That is not the token" in refused.text
    script = {"Accept": "application/json"}
    assert page.post("/login", data={"token": "wrong"}, headers=script).status_code == 401
    assert page.get("/").status_code == 303
    came = page.post("/login?next=/compare", data={"token": f" {TOKEN}\n"})
    assert (came.status_code, came.headers["location"]) == (303, "/compare")
    cookie = came.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and TOKEN not in cookie
    assert page.get("/").status_code == 200
    ours = f"{COOKIE}={page.cookies[COOKIE]}"
    for jar, status in ((f'bad name="\x01; {ours}', 200), (f"a{ours}", 303), (f"{ours}0; {COOKIE}", 303)):
        fresh = httpx.get(page.base_url, headers={"Cookie": jar, "Accept": "text/html"})
        assert fresh.status_code == status, jar
    other = serve(tmp_path, token="another-token")
    other.cookies.set(COOKIE, page.cookies[COOKIE])
    assert other.get("/").status_code == 303
    other.cookies.set(COOKIE, "é\udcff".encode("utf-8", "replace").decode())
    assert page.post("/login", content=b"token=" + b"x" * 5000, headers=script).status_code == 413


@pytest.mark.parametrize("after", ["//evil.example", "/\\evil.example", "https://evil.example", ""])
def test_the_way_back_leads_nowhere_else(
    serve: Callable[..., httpx.Client], tmp_path: Path, after: str
) -> None:
    page = serve(tmp_path, token=TOKEN)
    came = page.post("/login", params={"next": after}, data={"token": TOKEN})
    assert came.headers["location"] == "/"
