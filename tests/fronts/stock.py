"""Real fronts, each on a free port of loopback with its config in a folder.

Every front has the same routes: ``/origin`` leads to the origin, ``/refused`` to a port where
nobody listens, ``/silent`` to one that lets nobody in, and ``/full``, where it can set one, to the
origin behind a limit of one request. All wait a second for an answer; else they are as installed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import attrs

from tests.chaos.server import ChaosServer

THREE = ("origin", "refused", "silent")
ROUTES = (*THREE, "full")
Command: TypeAlias = list[str]


@attrs.frozen
class Place:
    """Where a front runs and what stands behind it.

    Args:
        folder: For its files.
        port: Its own, on 127.0.0.1.
        ports: Those behind it, by the name of their route.
    """

    folder: Path
    port: int
    ports: dict[str, int]

    def write(self, name: str, text: str) -> str:
        """Write a config file and return its path; ``@x`` stands for what ``x`` is here."""
        known = {"port": self.port, "folder": self.folder, **self.ports}
        for word in sorted(known, key=len, reverse=True):
            text = text.replace(f"@{word}", str(known[word]))
        path = self.folder / name
        path.write_text(text)
        return str(path)


@attrs.frozen
class Front:
    """A front that may be installed.

    Args:
        binary: The program's name.
        command: Writes the config and returns the command.
        routes: Those that it has.
    """

    binary: str
    command: Callable[[Place], Command]
    routes: tuple[str, ...] = ROUTES

    @property
    def path(self) -> str | None:
        """Where its program is, if it is installed: a user's PATH may lack sbin."""
        return shutil.which(self.binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def nginx(place: Place) -> Command:
    config = """
daemon off; master_process off; pid @folder/pid; error_log @folder/log;
events {}
http {
  access_log off; client_body_temp_path @folder/body; proxy_temp_path @folder/proxy;
  fastcgi_temp_path @folder/f; uwsgi_temp_path @folder/u; scgi_temp_path @folder/s;
  proxy_read_timeout 1s; proxy_connect_timeout 1s;
  limit_req_zone $server_port zone=one:1m rate=1r/m;
  server {
    listen 127.0.0.1:@port;
    location /origin/ { proxy_pass http://127.0.0.1:@origin; }
    location /refused/ { proxy_pass http://127.0.0.1:@refused; }
    location /silent/ { proxy_pass http://127.0.0.1:@silent; }
    location /full/ { limit_req zone=one; proxy_pass http://127.0.0.1:@full; }
  }
}"""
    return ["-c", place.write("nginx.conf", config), "-p", str(place.folder)]


def varnish(place: Place) -> Command:
    backend = """
backend %s { .host = "127.0.0.1"; .port = "@%s"; .connect_timeout = 1s; .max_connections = %d; }"""
    choice = 'if (req.url ~ "^/%s/") { set req.backend_hint = %s; }\n'
    config = (
        "vcl 4.1;\n"
        + "".join(backend % (name, name, 1 if name == "full" else 99) for name in ROUTES)
        + "\nsub vcl_recv {\n"
        + "".join(choice % (name, name) for name in ROUTES)
        + "}\n"
    )
    flags = ("first_byte_timeout=1", "between_bytes_timeout=1")
    return [
        *("-F", "-j", "none", "-a", f"127.0.0.1:{place.port}", "-n", str(place.folder / "work")),
        *("-f", place.write("default.vcl", config), "-s", "malloc,16m"),
        *(part for flag in flags for part in ("-p", flag)),
    ]


def haproxy(place: Place) -> Command:
    config = """
defaults
  mode http
  timeout client 30s
  timeout connect 1s
  timeout server 1s
  timeout queue 500ms
frontend all
  bind 127.0.0.1:@port
  use_backend %[path,field(2,/)]
backend origin
  server one 127.0.0.1:@origin
backend refused
  server one 127.0.0.1:@refused
backend silent
  server one 127.0.0.1:@silent
backend full
  server one 127.0.0.1:@full maxconn 1
"""
    return ["-db", "-f", place.write("haproxy.cfg", config)]


def apache(place: Place) -> Command:
    user = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""
    modules = ("mpm_event", "authz_core", "proxy", "proxy_http")
    config = (
        "".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in modules
        )
        + user
        + """
ServerRoot @folder
ServerName localhost
PidFile @folder/pid
DefaultRuntimeDir @folder
ErrorLog @folder/log
Listen 127.0.0.1:@port
ProxyTimeout 1
ProxyPass /origin http://127.0.0.1:@origin
ProxyPass /refused http://127.0.0.1:@refused
ProxyPass /silent http://127.0.0.1:@silent connectiontimeout=1
"""
    )
    return ["-X", "-f", place.write("apache.conf", config)]


def caddy(place: Place) -> Command:
    route = """
  handle /%s/* {
    reverse_proxy 127.0.0.1:@%s {
      transport http {
        response_header_timeout 1s
        dial_timeout 1s
      }
    }
  }"""
    routes = "".join(route % (name, name) for name in THREE)
    config = (
        "{\n  admin off\n  auto_https off\n  storage file_system @folder/caddy\n}\n"
        ":@port {\n  bind 127.0.0.1" + routes + "\n}\n"
    )
    return ["run", "--adapter", "caddyfile", "--config", place.write("Caddyfile", config)]


def traefik(place: Place) -> Command:
    router = "    %s: { rule: PathPrefix(`/%s/`), service: %s%s }\n"
    service = """    %s:
      loadBalancer: { serversTransport: short, servers: [{ url: "http://127.0.0.1:@%s" }] }
"""
    one = {"full": ", middlewares: [one]"}
    config = (
        "http:\n  serversTransports:\n    short:\n      forwardingTimeouts:\n"
        "        dialTimeout: 1s\n        responseHeaderTimeout: 1s\n"
        "  middlewares:\n    one: { inFlightReq: { amount: 1 } }\n"
        "  routers:\n"
        + "".join(router % (name, name, name, one.get(name, "")) for name in ROUTES)
        + "  services:\n"
        + "".join(service % (name, name) for name in ROUTES)
    )
    return [
        f"--entryPoints.web.address=127.0.0.1:{place.port}",
        f"--providers.file.filename={place.write('dynamic.yml', config)}",
        "--global.sendAnonymousUsage=false",
        "--global.checkNewVersion=false",
    ]


def envoy(place: Place) -> Command:
    kind = "type.googleapis.com/envoy.extensions.filters"
    route = """
              - match: { prefix: /%s/ }
                route: { cluster: %s, timeout: 1s }"""
    cluster = """
  - name: %s
    connect_timeout: 0.5s
    circuit_breakers: { thresholds: [{ max_pending_requests: %d }] }
    load_assignment:
      cluster_name: %s
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @%s } } }"""
    config = (
        f"""
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {kind}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": {kind}.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:"""
        + "".join(route % (name, name) for name in ROUTES)
        + "\n  clusters:"
        + "".join(cluster % (name, 0 if name == "full" else 99, name, name) for name in ROUTES)
    )
    path = place.write("envoy.yaml", config)
    return ["-c", path, "--concurrency", "1", "-l", "off", "--use-dynamic-base-id"]


def lighttpd(place: Place) -> Command:
    proxied = """
$HTTP["url"] =~ "^/%s/" {
  proxy.server = ("" => ((
    "host" => "127.0.0.1", "port" => @%s, "connect-timeout" => 1, "read-timeout" => 1
  )))
}"""
    config = (
        'server.modules = ("mod_proxy")\nserver.document-root = "@folder"\n'
        'server.bind = "127.0.0.1"\nserver.port = @port\nserver.errorlog = "@folder/log"\n'
        + "".join(proxied % (name, name) for name in THREE)
    )
    return ["-D", "-f", place.write("lighttpd.conf", config)]


def h2o(place: Place) -> Command:
    config = (
        "listen:\n  host: 127.0.0.1\n  port: @port\nerror-log: @folder/log\n"
        + ("user: nobody\n" if os.geteuid() == 0 else "")
        + "proxy.timeout.io: 1000\nhosts:\n  default:\n    paths:\n"
        + "".join(
            f'      "/{name}/":\n        proxy.reverse.url: "http://127.0.0.1:@{name}/"\n'
            for name in THREE
        )
    )
    return ["-m", "worker", "-c", place.write("h2o.yaml", config)]


def trafficserver(place: Place) -> Command:
    shutil.copytree("/etc/trafficserver", place.folder / "etc")
    config = """
CONFIG proxy.config.http.server_ports STRING @port:ip-in=127.0.0.1
CONFIG proxy.config.http.connect_attempts_timeout INT 1
CONFIG proxy.config.http.transaction_no_activity_timeout_out INT 1
CONFIG proxy.config.http.cache.http INT 0
CONFIG proxy.config.log.logging_enabled INT 0
CONFIG proxy.config.body_factory.template_sets_dir STRING /etc/trafficserver/body_factory
CONFIG proxy.config.admin.user_id STRING #-1
"""
    routes = "".join(f"map /{name}/ http://127.0.0.1:@{name}/\n" for name in THREE)
    place.write("etc/records.config", config)
    place.write("etc/remap.config", routes)
    place.write("etc/storage.config", "")
    here = ("prefix", "data", "include", "localstate", "runtime", "log", "man", "cache", "info")
    folders = {
        **{name if name == "prefix" else f"{name}dir": place.folder for name in here},
        "exec_prefix": "/usr",
        "bindir": "/usr/bin",
        "sbindir": "/usr/bin",
        "sysconfdir": place.folder / "etc",
        "libdir": "/usr/lib/trafficserver",
        "libexecdir": "/usr/lib/trafficserver/modules",
    }
    lines = "".join(f"{name}: {path}\n" for name, path in folders.items())
    return [f"--run-root={place.write('runroot.yaml', lines)}"]


FRONTS = {
    "nginx": Front("nginx", nginx),
    "Varnish": Front("varnishd", varnish),
    "HAProxy": Front("haproxy", haproxy),
    "Apache": Front("apache2", apache, THREE),
    "Caddy": Front("caddy", caddy, THREE),
    "Traefik": Front("traefik", traefik),
    "Envoy": Front("envoy", envoy),
    "lighttpd": Front("lighttpd", lighttpd, THREE),
    "H2O": Front("h2o", h2o, THREE),
    "Traffic Server": Front("traffic_server", trafficserver, ("origin", "refused")),
}


def free_port() -> int:
    """Return a port of loopback that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def silent_port() -> Iterator[int]:
    """Yield a port whose queue of connections is full: what knocks there hears nothing."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for knocking in (first, second):
            knocking.setblocking(False)
            with suppress(BlockingIOError):
                knocking.connect(listener.getsockname())
        yield int(listener.getsockname()[1])


@asynccontextmanager
async def fronting(name: str, folder: Path, origin: ChaosServer) -> AsyncIterator[str]:
    """Run a front before an origin; yield its URL, to which a route is added.

    Args:
        name: In FRONTS.
        folder: For its files.
        origin: What stands behind it.
    """
    front = FRONTS[name]
    with silent_port() as silent:
        ports = {"origin": origin.port, "refused": free_port(), "silent": silent}
        place = Place(folder, free_port(), ports | {"full": origin.port})
        command = [front.path or front.binary, *front.command(place)]
        seen = len(origin.ledger.heads)
        # Some listen before they have read their routes: the origin must hear of a request.
        async with running(command, folder, place.port, lambda: len(origin.ledger.heads) > seen):
            yield f"http://127.0.0.1:{place.port}"


@asynccontextmanager
async def running(
    command: Command, folder: Path, port: int, ready: Callable[[], bool] = lambda: True
) -> AsyncIterator[None]:
    """Run a program until the block ends; enter it once the program answers and ``ready`` says so.

    Args:
        command: The program and its arguments.
        folder: Its working folder, where its output goes.
        port: Where it answers.
        ready: Asked after each answer.
    """
    asking = b"GET /origin/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with (folder / "output").open("wb") as output:
        # Its own session: some fork, and all of them end with it.
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        answer = b""
        while not (answer and ready()):
            if process.poll() is not None:
                words = (folder / "output").read_text(errors="replace")
                raise RuntimeError(f"{command[0]} ended: {words[-2000:]}")
            await asyncio.sleep(0.05)
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(asking)
                answer = await reader.read()
                writer.close()
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
