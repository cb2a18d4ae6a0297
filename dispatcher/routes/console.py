"""The console page: ``/`` and its files. They are open where keys are set: the page asks for a key, what it shows does.

The files are read once, as this module is imported. A path only ever chooses among them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

router = APIRouter(tags=["console"])

FOLDER = Path(__file__).parents[1] / "console"
PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class ConsoleFile:
    """One file, and the tag that tells a browser whether its copy is still good."""

    content: bytes
    media_type: str
    etag: str


def read_files(folder: Path = FOLDER) -> dict[str, ConsoleFile]:
    """Every file of the page by name; what is of no type that a page is made of is left out."""
    found = {}
    for path in folder.iterdir():
        if path.suffix in _TYPES:
            content = path.read_bytes()
            found[path.name] = ConsoleFile(
                content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            )
    return found


_FILES = read_files()


@router.get("/", summary="The console page", response_class=HTMLResponse)
async def page(request: Request) -> Response:
    """The fleet, its models and jobs in a browser, as they are now."""
    return _answer(request, PAGE)


@router.get("/console/{name}", include_in_schema=False)
async def file(request: Request, name: str) -> Response:
    """A file of the page."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    found = _FILES.get(name)
    if found is None:
        raise HTTPException(404, "the console has no such file; the page is at /")
    # Asked for anew each time, and sent only if it has changed: an upgrade never meets half of an older page.
    headers = {"ETag": found.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)
