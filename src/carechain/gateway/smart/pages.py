"""The two pages a browser may see: waiting for an approval, and an error that must not be sent anywhere.

No script, no form, nothing loaded from anywhere: the browser asks again by itself every few seconds.
"""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Final
from urllib.parse import urlencode

from carechain.gateway.smart.discovery import WAIT
from carechain.gateway.smart.server import ShownPage

LOOK_AGAIN_S: Final = 3
_STYLE: Final = (
    "body{font:1rem/1.5 sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem;color:#123}"
    "code{font-size:1.1rem}.code{font-size:2.4rem;letter-spacing:.1em}"
)
_STYLE_HASH: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def waiting_page(shown: ShownPage, root: str) -> str:
    """Who asks for what, and the code to approve it under. ``root`` is the door's address."""
    again = f"{root}{WAIT}?{urlencode({'handle': shown.handle})}"
    wishes = "".join(f"<li>{escape(one)}</li>" for one in shown.wishes)
    return _page(
        f"Let {shown.app} in?",
        f"<p><strong>{escape(shown.app)}</strong> at <code>{escape(shown.host)}</code> would like to:</p>"
        f"<ul>{wishes}</ul>"
        f"<p>Only you can let it, with your own key. Your code is</p><p class=code>{escape(shown.code)}</p>"
        f"<p>On the command line: <code>carechain app approve {escape(shown.code)} --fhir {escape(root)}</code></p>"
        "<p>If you did not start this in the app yourself just now, approve nothing and close this page.</p>"
        f"<p>This page goes on by itself. <a href='{escape(again)}'>Look again</a></p>",
        head=f"<meta http-equiv=refresh content='{LOOK_AGAIN_S};url={escape(again)}'>",
    )


def error_page(reason: str) -> str:
    """Why nothing was sent to the app."""
    return _page("This cannot go on", f"<p>{escape(reason)}</p><p>Go back to the app and start again.</p>")


def _page(title: str, body: str, *, head: str = "") -> str:
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>{head}"
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>{body}</html>"
    )
