"""The page to draw a digit on, as one HTML file: for a server that answers it, or with a network inside.

`mnist-serve` serves the page and `mnist-export` puts a network into it; both need this distribution.
"""

import base64
import hashlib
from pathlib import Path

_FOLDER = Path(__file__).parent
_STYLE = '<link rel="stylesheet" href="page.css">'
_SCRIPT = '<script type="module" src="page.js"></script>'
_HEAD = '<meta charset="utf-8">\n'
_NETWORK = '<script type="module" id="network">'
_EXPOSED = "\nglobalThis.mnist = { about, damaged, normalise, predict, replay };\n"  # for the page's script beside it


def served() -> tuple[bytes, str]:
    """Return the page that asks its server, and the Content-Security-Policy to serve it with."""
    page, policy = _assembled("", "'self'")
    return page.encode(), f"{policy}; frame-ancestors 'none'"


def app_files(page: str) -> dict[str, bytes]:
    """Return the optional files, by name, that make a page beside them an app for browsers to install.

    `page` is the page's address relative to them.
    """
    files = {name: (_FOLDER / name).read_bytes() for name in ("mnist.webmanifest", "mnist.worker.js")}
    start = f'"start_url": "{page}"'.encode()
    return {name: data.replace(b'"start_url": "./"', start) for name, data in files.items()}


def offline(module: bytes) -> bytes:
    """Return the page with `module`, the text of a mnist.mjs, inside; its policy is inside too, and allows no requests.

    The policy has no `frame-ancestors`, because a <meta> cannot set that and browsers warn about it.
    """
    text = module.decode("ascii") + _EXPOSED
    page, policy = _assembled(f"{_NETWORK}{text}</script>\n", "'none'", text)
    return page.replace(_HEAD, f'{_HEAD}<meta http-equiv="Content-Security-Policy" content="{policy}">\n').encode()


def module_of(page: bytes) -> bytes:
    """Return the module inside an offline page, of any version; empty if there is none, or the page is cut short."""
    if not page.endswith(b"</html>\n"):
        return b""
    return page.partition(_NETWORK.encode())[2].partition(_EXPOSED.encode())[0]


def _assembled(network: str, hosts: str, *scripts: str) -> tuple[str, str]:
    """Return the page in one piece, and a policy that allows only its own style and scripts."""
    html, style, script = ((_FOLDER / name).read_text("utf-8") for name in ("index.html", "page.css", "page.js"))
    html = html.replace(_STYLE, f"<style>{style}</style>")
    html = html.replace(_SCRIPT, f'{network}<script type="module">{script}</script>')
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {' '.join(map(_source, (*scripts, script)))}; "
        f"connect-src {hosts}; img-src data:; "  # data: is the icon
        "manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'"
    )
    return html, policy


def _source(text: str) -> str:
    """Return a text's SHA-256 as a source of a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
