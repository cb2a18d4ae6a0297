"""Debian's Chromium for tests, without a window: where it is missing a test is skipped, with ``CI`` set it fails."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

WAIT_MS = 15_000.0
GRAVE = {"serious", "critical"}
expect.set_options(timeout=WAIT_MS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. Its window is 1280 by 900 where a test does not say otherwise."""
    program = shutil.which("chromium")
    if program is None:
        message = f"chromium is not installed: {sys.executable} -m deploy.local.install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # It runs as root in containers, where its own sandbox cannot be set up; the pages are ours.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str, width: int = 1280, height: int = 900, **context: Any) -> Iterator[Page]:
    """A page in a profile of its own. Fails at the end if anything on it raised, or broke the page's own policy."""
    with browser.new_context(viewport={"width": width, "height": height}, **context) as profile:
        profile.set_default_timeout(WAIT_MS)
        page = profile.new_page()
        raised: list[str] = []
        page.on("pageerror", lambda error: raised.append(str(error)))
        page.on("console", lambda line: raised.append(line.text) if "Content Security Policy" in line.text else None)
        page.goto(url)
        yield page
    assert raised == []


def grave_violations(page: Page, *only: str) -> list[str]:
    """What axe-core finds that keeps somebody from using the page, one line each. ``only``: by these rules, not all."""
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page.evaluate(axe)
    options = {"resultTypes": ["violations"], **({"runOnly": list(only)} if only else {})}
    found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    return [
        f"{one['impact']} {one['id']}: {json.dumps([node['html'][:160] for node in one['nodes'][:3]])}"
        for one in found
        if one["impact"] in GRAVE
    ]


def overflows(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
