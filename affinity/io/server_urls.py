"""URLs that name several hosts: the nodes of one RabbitMQ cluster, or the Sentinels that know a Redis primary.

``scheme://user:password@host:port,host:port/path?query``: the commas are between hosts only, everything else is said
once and holds for each. The settings check a URL with the same functions that later take it apart.
"""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

SENTINEL_PORT = 26379
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """``redis+sentinel://user:password@host:port,host:port/service/database``, taken apart.

    ``hosts`` are the Sentinels, host and port; ``server_url`` is a plain URL with everything that holds for the Redis
    server itself (user, password, database, TLS, options), and a host that is to be put in. The Sentinels' own user
    and password are the options ``sentinel_username`` and ``sentinel_password``; empty where they ask for none.
    """

    hosts: tuple[tuple[str, int], ...]
    service: str
    server_url: str = field(repr=False)
    username: str
    password: str = field(repr=False)


def each_host(url: str) -> tuple[str, ...]:
    """One URL for each host of ``url``, in the same order."""
    scheme, separator, rest = url.partition("://")
    ends = [at for mark in "/?#" if (at := rest.find(mark)) >= 0]
    end = min(ends, default=len(rest))
    # A password may have commas, and even an "@", in it: hosts have neither.
    user, divider, hosts = rest[:end].rpartition("@")
    return tuple(f"{scheme}{separator}{user}{divider}{host}{rest[end:]}" for host in hosts.split(","))


def names_sentinels(url: str) -> bool:
    """Whether ``url`` is one for ``sentinel_url``."""
    return url.partition("://")[0] in SENTINEL_SCHEMES


def sentinel_url(url: str) -> SentinelUrl:
    """Take apart. ``ValueError``, without the URL's text in it, where something is missing or is no number."""
    places = [urlsplit(one) for one in each_host(url)]
    path = [unquote(piece) for piece in places[0].path.split("/")[1:]]
    service, database = path[0] if path else "", path[1] if len(path) > 1 else ""
    if not service or len(path) > 2 or not (database or "0").isdecimal() or not all(place.hostname for place in places):
        raise ValueError("needs hosts, a service and at most a database")
    query = dict(parse_qsl(places[0].query))
    username, password = (query.pop(f"sentinel_{name}", "") for name in ("username", "password"))
    user, at, _ = places[0].netloc.rpartition("@")
    return SentinelUrl(
        hosts=tuple((place.hostname or "", place.port or SENTINEL_PORT) for place in places),
        service=service,
        server_url=f"{places[0].scheme.partition('+')[0]}://{user}{at}primary/{database or 0}?{urlencode(query)}",
        username=username,
        password=password,
    )
