#!/usr/bin/env python3
"""Feeds a running `repoint up` with the environments of a side-by-side run, and moves their pointers.

    feed.py MAP DATA_DIR API_PORT MOVER_PORT BASE NDEPS

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
            self.headers = {"X-API-KEY": key.read().strip(), "Content-Type": "application/json"}

    def __call__(self, method, path, body=None):
        for last in (False, True):
            try:
                self.connection.request(method, path, json.dumps(body) if body is not None else None, self.headers)
                answer = self.connection.getresponse()
                text = answer.read()
                break
            except (ConnectionError, http.client.HTTPException):
                self.connection.close()
                if last:
                    raise
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text)


def load(api):
    hosts = [line.split() for line in open(MAP)]
    project = api("POST", "/api/v1/projects", {"name": "peers"})["id"]
    deployments = [
        api("POST", "/api/v1/deployments", {
            "project_id": project,
            "source": {"kind": "endpoints", "endpoints": [f"http://127.0.0.1:{BASE + k}"]},
        })["id"]
        for k in range(NDEPS)
    ]
    environments = {}
    for n, (host, k) in enumerate(hosts):
        made = api("POST", "/api/v1/environments", {"project_id": project, "name": f"e{n}", "hosts": [host]})
        environments[host] = made["id"]
        promote(api, made["id"], deployments[int(k)])
    for k in list(range(NDEPS)) * 2:
        promote(api, environments[hosts[WATCHED][0]], deployments[k])
    promote(api, environments[hosts[WATCHED][0]], deployments[WATCHED % NDEPS])
    return environments, deployments


def promote(api, environment, deployment):
    return api("POST", "/api/v1/deployments/promote", {
        "source_deployment_id": deployment, "target_environment_id": environment, "wait_ms": 10000,
    })


def serve_moves(api, listener, environments, deployments):
    listener.settimeout(1)
    while True:
        try:
            taken, _ = listener.accept()
        except TimeoutError:
            try:
                socket.create_connection(("127.0.0.1", API), 5).close()
                continue
            except OSError:
                return
        with taken:
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, host, k = taken.recv(1000).decode().split()
            promote(api, environments[host], deployments[int(k)])
            taken.sendall(b"ok\n")


def main():
    api = Api()
    began = time.time()
    loaded = load(api)
    print(f"loaded {len(loaded[0])} environments in {time.time() - began:.1f} s", flush=True)
    listener = socket.create_server(("127.0.0.1", MOVER))
    if os.fork() == 0:
        os.setsid()
        serve_moves(Api(), listener, *loaded)


main()
