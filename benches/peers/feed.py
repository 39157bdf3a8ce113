#!/usr/bin/env python3
"""Feeds a running `repoint up` with the environments of a side-by-side run, and moves their pointers.

    feed.py MAP DATA_DIR API_PORT MOVER_PORT BASE NDEPS

The harness calls it (`load` in repoint.json). By hand, for a look:

    cargo build --profile dist --bin repoint
    export REPOINT=$PWD/target/dist/repoint PEERS=$PWD/benches/peers
    python3 HARNESS/scripts/bench.py -t haproxy,$PEERS/repoint.json -w ka1k -r 5 -s 3 --ref haproxy
    python3 HARNESS/scripts/flip.py -t haproxy,$PEERS/repoint.json -n 100000 -k 20 -g 0.4

MAP has one `host index` per line; deployment k is 127.0.0.1:BASE+k. When everything is loaded and every deployment has
served the watched environment once, a mover is left behind: it takes lines `set HOST K` on MOVER_PORT, promotes through
the REST API, and answers `ok` when that call has returned. It ends by itself when the API does.
"""
import http.client, json, os, socket, sys, time

MAP, DATA, API, MOVER, BASE, NDEPS = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])
WATCHED = 7  # the environment that flip.py moves


class Api:
    def __init__(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", API, timeout=300)
        with open(f"{DATA}/admin.key") as key:
            self.headers = {"X-API-KEY": key.read().strip()}

    def __call__(self, method, path, body=None, kind="application/json"):
        body = body if body is None or isinstance(body, str) else json.dumps(body)
        for last in (False, True):
            try:
                self.connection.request(method, path, body, {**self.headers, "Content-Type": kind})
                answer = self.connection.getresponse()
                text = answer.read()
                break
            except (ConnectionError, http.client.HTTPException):
                self.connection.close()
                if last:
                    raise
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        if kind != "application/json":
            text = text.strip().splitlines()[-1]
            if b"error" in text:
                sys.exit(text.decode())
        return json.loads(text)


def lines(hosts):
    """The map as `repoint import` reads it."""
    yield {"kind": "project", "name": "peers"}
    for k in range(NDEPS):
        source = {"kind": "endpoints", "endpoints": [f"http://127.0.0.1:{BASE + k}"]}
        yield {"kind": "deployment", "project": "peers", "ref": ref(k), "source": source}
    for n, (host, k) in enumerate(hosts):
        yield {"kind": "environment", "project": "peers", "name": f"e{n}", "hosts": [host]}
        yield {"kind": "pointer", "project": "peers", "environment": f"e{n}", "ref": ref(int(k))}


def ref(k):
    return "p" + 6 * "b" + "bcdfghjkmnpqrstvwxyz"[k]


def load(api):
    hosts = [line.split() for line in open(MAP)]
    body = "\n".join(map(json.dumps, lines(hosts)))
    api("POST", "/api/v1/import", body, "application/x-ndjson")
    project = api("GET", "/api/v1/projects")["items"][0]["id"]
    deployments = {made["ref"]: made["id"] for made in api("GET", f"/api/v1/deployments?project_id={project}")["items"]}
    deployments = [deployments[ref(k)] for k in range(NDEPS)]
    listed = api("GET", f"/api/v1/environments?project_id={project}&limit=50")["items"]
    watched = next(made["id"] for made in listed if made["name"] == f"e{WATCHED}")
    # Twice: the first move to a deployment waits until it has been probed here.
    for k in [*range(NDEPS), *range(NDEPS), WATCHED % NDEPS]:
        promote(api, watched, deployments[k])
    return {hosts[WATCHED][0]: watched}, deployments


def promote(api, environment, deployment):
    return api("POST", "/api/v1/deployments/promote", {
        "source_deployment_id": deployment, "target_environment_id": environment, "wait_ms": 10000,
    })


def serve_moves(api, listener, environments, deployments):
    listener.settimeout(0.2)
    server = started()
    while True:
        try:
            taken, _ = listener.accept()
        except TimeoutError:
            try:
                socket.create_connection(("127.0.0.1", API), 5).close()
                if started() != server:
                    return
                continue
            except OSError:
                return
        with taken:
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, host, k = taken.recv(1000).decode().split()
            promote(api, environments[host], deployments[int(k)])
            taken.sendall(b"ok\n")


def started():
    """Tells one start of the server from the next on the same ports: each begins with an empty directory."""
    return os.stat(f"{DATA}/admin.key").st_ctime_ns


def main():
    api = Api()
    began = time.time()
    loaded = load(api)
    print(f"loaded in {time.time() - began:.1f} s", flush=True)
    listener = socket.create_server(("127.0.0.1", MOVER))
    if os.fork() == 0:
        os.setsid()
        serve_moves(Api(), listener, *loaded)


main()
