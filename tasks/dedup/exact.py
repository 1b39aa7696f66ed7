"""The exact levels: equal text by SHA-256, and equal address by canonical URL.

Equal text needs no normalisation and no parameters, and is what finds equal texts without a single word. A canonical
URL loses only what does not choose the page. General URL cleaners go further: courlan, for one, drops every parameter
whose name begins with `ref`, `source`, `cid` or `ga` (so `game`), by which forums and shops tell their pages apart.
That serves a crawler's frontier; where documents are removed, two addresses of one page are better than one for two.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, urlsplit

import idna

_DEFAULT_PORTS = {"http": 80, "https": 443}

# What advertisers, mailers and analytics append to links by their own documentation (Google, Meta, Microsoft, TikTok,
# X, LinkedIn, Yandex, Instagram, Mailchimp, HubSpot, Matomo, Marketo), and the session ids of PHP, Java and ASP.
_TRACKING_PARAMETER = re.compile(
    r"utm_\w+|gclid|gclsrc|dclid|gbraid|wbraid|_ga|_gl|fbclid|msclkid|ttclid|twclid|li_fat_id|yclid|ysclid|igshid|igsh"
    r"|mc_cid|mc_eid|_hsenc|_hsmi|__hs\w+|hsctatracking|mtm_\w+|pk_(campaign|kwd|source|medium|content)|mkt_tok"
    r"|phpsessid|jsessionid|aspsessionid\w*",
    re.IGNORECASE,
)
_SESSION_IN_PATH = re.compile(r";jsessionid=[^/;]*", re.IGNORECASE)
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
_PLAIN = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]*")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_RESERVED = "%:/?#[]@!$&'()*+,;="  # RFC 3986, section 2.2; and the sign of an escape


def text_sha256(text: str) -> bytes:
    """SHA-256 of the UTF-8 text, 32 bytes: `Document.text_sha256` without the detour over hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def canonical_url(url: str) -> str:
    """One spelling for the addresses of one page.

    By RFC 3986 (section 6.2): case of scheme and host, punycode, default port, escapes, `.` and `..` in the path, an
    empty path. By custom: https stands for http too; no fragment; parameters sorted, without those that only track
    where a reader came from, and empty ones; `+` is a space in a query. `www.`, a slash at the end, the case of the
    path and every other parameter may choose another page and stay. What is no http(s) URL comes back stripped of
    white space; nothing raises.
    """
    stripped = url.strip()
    try:
        parts = urlsplit(stripped)
        host, port = parts.hostname, parts.port
    except ValueError:
        return stripped
    if parts.scheme not in _DEFAULT_PORTS or not host:
        return stripped
    login = parts.netloc.rpartition("@")[0]
    netloc = f"{login}@" * bool(login) + (f"[{host}]" if ":" in host else host_name(host))
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        netloc += f":{port}"
    path = _without_dots(_escaped(_SESSION_IN_PATH.sub("", parts.path)))
    query = _escaped(parts.query).replace("%20", "+")
    parameters = sorted(filter(_chooses_the_page, query.split("&"))) if query else []
    return f"https://{netloc}{path}" + f"?{'&'.join(parameters)}" * bool(parameters)


def url_key(url: str) -> bytes | None:
    """128-bit BLAKE2b of the canonical URL; None where there is no URL."""
    canonical = canonical_url(url)
    data = canonical.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16, person=b"canonical url").digest() if canonical else None


def host_name(host: str) -> str:
    """A host as it is compared: lower case, without the root's dot, international names as ASCII (`xn--…`, UTS 46).

    What is no valid name comes back in lower case: pages are linked by impossible hosts too, and they stay comparable.
    """
    host = host.strip().rstrip(".").lower()
    if host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError:
        return host


def _escaped(text: str) -> str:
    """Escapes in capitals, only where they are needed, and everywhere there (RFC 3986, sections 2.3 and 2.1)."""
    if _PLAIN.fullmatch(text):
        return text

    def escape(match: re.Match[str]) -> str:
        character = chr(int(match[0][1:], 16))
        return character if character in _UNRESERVED else match[0].upper()

    return quote(_ESCAPE.sub(escape, text).encode("utf-8", "surrogatepass"), safe=_RESERVED)


def _without_dots(path: str) -> str:
    """The path from the root, `.` and `..` resolved (RFC 3986, section 5.2.4)."""
    if "/." not in path:
        return path or "/"
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _chooses_the_page(parameter: str) -> bool:
    return parameter != "" and not _TRACKING_PARAMETER.fullmatch(parameter.partition("=")[0])
