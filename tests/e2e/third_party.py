"""A control plane that is not ours, for tests/e2e/third_party.rs.

Knows of the protocol what the `.proto` says, and no more: grpcio-tools makes its messages from that file when it
starts. `third_party.py PROTO_FOLDER TOKEN` prints its port. Then each line it reads is a committed change, and each
line it prints is something that the proxy has said.

    point NAME ADDRESS   the environment points at the deployment NAME, which one replica at ADDRESS serves
    close NAME           the pool of NAME takes nothing new
    dangle               the environment points at a deployment without a pool
    away                 no change: the proxy is sent away and may come back at once
"""

import hashlib
import os
import sys
import tempfile
import threading
import time
import uuid
from concurrent import futures

import grpc
from grpc_tools import protoc

INCLUDE, TOKEN = sys.argv[1:]
GENERATED = tempfile.mkdtemp()
FILE = "repoint/control/v1/control.proto"
if protoc.main(["protoc", f"-I{INCLUDE}", f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}", FILE]) != 0:
    sys.exit("the .proto does not compile")
sys.path.insert(0, GENERATED)

from repoint.control.v1 import control_pb2 as pb  # noqa: E402
from repoint.control.v1 import control_pb2_grpc as pb_grpc  # noqa: E402

ENVIRONMENT = uuid.uuid4()
HEARTBEAT = 1.0
STATUS_MS = 200
MINOR = 1  # nothing here is newer


def say(*words):
    print(*words, flush=True)


def digest(state):
    first = (hashlib.sha256(key.encode() + b"\0" + record).digest()[:16] for key, record in state.items())
    return (sum(int.from_bytes(part, "big") for part in first) % 2**128).to_bytes(16, "big")


class Store:
    """Every state there was, by revision: records by key."""

    def __init__(self):
        self.lineage = os.urandom(16)
        self.states = [{}]
        self.deployments = {}
        self.closed = {}  # names by the revision that closed them
        self.changed = threading.Condition()
        self.sent_away = 0
        self.put(pb.Record(settings=pb.Settings(base_domain="agents.test")))

    def head(self):
        return len(self.states) - 1

    def position(self, revision):
        return pb.Position(lineage=self.lineage, revision=revision, digest=digest(self.states[revision]))

    def put(self, *records):
        with self.changed:
            self.states.append(self.states[-1] | {key(record): record.SerializeToString() for record in records})
            self.changed.notify_all()

    def delta(self, since):
        """What is different, as one change set."""
        old, new = self.states[since], self.states[-1]
        change = pb.ChangeSet(
            revision=self.head(),
            minor_min=MINOR,
            upserts=[record for key, record in new.items() if old.get(key) != record],
            deletes=[key for key in old if key not in new],
        )
        head = self.position(self.head())
        return pb.Delta(**{"from": self.position(since)}, to=head, change_sets=[change.SerializeToString()])

    def point(self, name, address):
        self.put(self.pool(name, address, pb.POOL_STATE_OPEN), self.environment(self.deployment(name)))

    def close(self, name):
        with self.changed:
            self.closed[name] = self.head() + 1
        self.put(self.pool(name, None, pb.POOL_STATE_CLOSING))

    def deployment(self, name):
        return self.deployments.setdefault(name, uuid.uuid4())

    def environment(self, deployment):
        policy = pb.Policy(pins=pb.DOOR_OPEN, connect_timeout_ms=5_000, max_drain_ms=900_000)
        return pb.Record(
            environment=pb.Environment(
                id=ENVIRONMENT.bytes,
                project="shop",
                name="production",
                hosts=["shop.test"],
                pointer=deployment.bytes,
                policy=policy,
            )
        )

    def pool(self, name, address, state):
        deployment = self.deployment(name)
        pool = pb.Pool(
            key=pb.PoolKey(environment_id=ENVIRONMENT.bytes, deployment_id=deployment.bytes),
            reference="bcdfghj" + "23456789"[list(self.deployments).index(name)],
            protocol=pb.PROTOCOL_HTTP1,
            host=pb.HOST_HEADER_CLIENT,
        )
        if address is None:
            pool = pb.Record.FromString(self.states[-1][key(pb.Record(pool=pool))]).pool
        else:
            pool.endpoints.add(id=uuid.uuid4().bytes, address=address, state=pb.ENDPOINT_STATE_READY)
        pool.state = state
        return pb.Record(pool=pool)


def key(record):
    kind = record.WhichOneof("value")
    if kind == "settings":
        return "settings"
    if kind == "environment":
        return f"environment/{uuid.UUID(bytes=record.environment.id)}"
    ids = record.pool.key
    return f"pool/{uuid.UUID(bytes=ids.environment_id)}/{uuid.UUID(bytes=ids.deployment_id)}"


class Session:
    """One stream: where the proxy stands, and the one frame that is on its way."""

    def __init__(self, at):
        self.at = at  # None: a snapshot first
        self.awaiting = None
        self.past, self.until = -1, 0.0  # after a refusal
        self.over = False
        self.sent_away = store.sent_away
        self.parts = []
        self.told = {}

    def next(self):
        """The revision to send, if one is to be sent now."""
        is_new = self.at is None or self.at < store.head()
        may = self.awaiting is None and store.head() > self.past and time.monotonic() >= self.until
        return store.head() if is_new and may else None

    def is_due(self):
        return self.over or self.sent_away < store.sent_away or self.next() is not None

    def hear(self, requests):
        try:
            for request in requests:
                with store.changed:
                    getattr(self, request.WhichOneof("message"))(getattr(request, request.WhichOneof("message")))
                    store.changed.notify_all()
        except grpc.RpcError:
            pass
        with store.changed:
            self.over = True
            store.changed.notify_all()

    def ack(self, ack):
        if ack.applied.revision == self.awaiting and ack.applied == store.position(self.awaiting):
            self.at, self.awaiting = self.awaiting, None
        self.tell("applied", ack.applied.revision)
        if ack.HasField("durable"):
            self.tell("durable", ack.durable.revision)

    def nack(self, nack):
        say("refused", nack.refused_revision, pb.NackReason.Name(nack.reason), "at", nack.stuck.revision)
        self.at, self.awaiting = nack.stuck.revision, None
        self.past, self.until = nack.refused_revision, time.monotonic() + 1

    def status(self, status):
        self.parts.append(status)
        if status.more:
            return
        parts, self.parts = self.parts, []
        busy = {part.pool.deployment_id: part.in_flight for status in parts for part in status.busy_pools}
        truncated = any(status.truncated for status in parts)
        for name, revision in store.closed.items():
            running = busy.get(store.deployment(name).bytes, 0)
            if running:
                self.tell(f"busy {name}", running)
            elif not truncated and status.applied.revision >= revision:
                self.tell("drained", name)

    def demand(self, demand):
        self.tell("demand", demand.waiting)

    def goodbye(self, _):
        say("goodbye")
        self.over = True

    def tell(self, what, value):
        """Once, however often it is said."""
        if self.told.get(what) != value:
            self.told[what] = value
            say(what, value)


class ControlStream(pb_grpc.ControlStreamServiceServicer):
    def Sync(self, requests, context):
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
        hello = next(requests).hello
        stands = hello.position if hello.HasField("position") else None
        knows = stands is not None and stands.revision <= store.head() and stands == store.position(stands.revision)
        mode = pb.SYNC_MODE_RESUME if knows else pb.SYNC_MODE_SNAPSHOT
        say("hello", hello.proxy_id, pb.SyncMode.Name(mode))
        session = Session(stands.revision if knows else None)
        threading.Thread(target=session.hear, args=(requests,), daemon=True).start()
        welcome = pb.Welcome(
            head=store.position(store.head()),
            mode=mode,
            heartbeat_interval_ms=int(HEARTBEAT * 1_000),
            status_interval_ms=STATUS_MS,
            minor=MINOR,
            build="third-party/1",
        )
        yield pb.SyncResponse(welcome=welcome)
        while True:
            with store.changed:
                store.changed.wait_for(session.is_due, timeout=HEARTBEAT / 2)
                if session.over:
                    return
                response = self.word(session)
            yield response
            if response.HasField("go_away"):
                return

    def word(self, session):
        head = store.position(store.head())
        if session.sent_away < store.sent_away:
            return pb.SyncResponse(go_away=pb.GoAway(reason=pb.GO_AWAY_REASON_SHUTDOWN))
        if session.next() is None:
            return pb.SyncResponse(heartbeat=pb.Heartbeat(head=head))
        session.awaiting = store.head()
        if session.at is None:
            records = list(store.states[-1].values())
            return pb.SyncResponse(snapshot_chunk=pb.SnapshotChunk(position=head, last=True, records=records))
        return pb.SyncResponse(delta=store.delta(session.at))


def commands():
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "point":
            store.point(*arguments)
        elif command == "close":
            store.close(*arguments)
        elif command == "dangle":
            store.put(store.environment(uuid.uuid4()))
        elif command == "away":
            with store.changed:
                store.sent_away += 1
                store.changed.notify_all()


store = Store()
server = grpc.server(futures.ThreadPoolExecutor(8))
pb_grpc.add_ControlStreamServiceServicer_to_server(ControlStream(), server)
say(server.add_insecure_port("127.0.0.1:0"))
server.start()
commands()
# The end of our input is the end of the test.
server.stop(None)
