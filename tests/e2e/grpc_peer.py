"""Both ends of gRPC with Python's own library, for tests/e2e/grpc.rs.

`serve` runs a server and prints its port; `call ADDRESS AUTHORITY` calls it
through the proxy at ADDRESS and prints what it heard, a line for each call.
"""

import sys
import threading
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    context.set_trailing_metadata((("x-kind", "unary"),))
    return b"unary " + request


def client_stream(requests, context):
    return b"+".join(requests)


def server_stream(request, context):
    for n in range(3):
        yield request + b" %d" % n


def talk(requests, context):
    # Each word is answered before the next is said.
    for request in requests:
        yield b"heard " + request


def fails(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 %")


def waits(request, context):
    context.add_callback(cancelled.set)
    yield b"begun"
    cancelled.wait(60)


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(20) else b"no"


def serve():
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
        "Fails": grpc.unary_unary_rpc_method_handler(fails),
        "Waits": grpc.unary_stream_rpc_method_handler(waits),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("agents.Agent", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    # Ends with whoever holds the other end.
    sys.stdin.read()
    server.stop(0)


def code_of(call):
    try:
        call()
        return "OK"
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"


def call(address, authority):
    def channel_to(authority):
        return grpc.insecure_channel(address, [("grpc.default_authority", authority)])

    limit = 60
    with channel_to(authority) as channel:
        answer, rpc = channel.unary_unary("/agents.Agent/Unary").with_call(b"word", timeout=limit)
        trailers = {item.key: item.value for item in rpc.trailing_metadata()}
        print("unary:", answer.decode(), trailers["x-kind"])
        words = iter([b"a", b"b", b"c"])
        print("client stream:", channel.stream_unary("/agents.Agent/ClientStream")(words, timeout=limit).decode())
        said = channel.unary_stream("/agents.Agent/ServerStream")(b"token", timeout=limit)
        print("server stream:", ", ".join(part.decode() for part in said))

        told = threading.Semaphore(1)

        def one_after_the_other():
            for word in [b"one", b"two", b"three"]:
                told.acquire()
                yield word

        heard = []
        for part in channel.stream_stream("/agents.Agent/Talk")(one_after_the_other(), timeout=limit):
            heard.append(part.decode())
            told.release()
        print("both:", ", ".join(heard))
        print("status:", code_of(lambda: channel.unary_unary("/agents.Agent/Fails")(b"", timeout=limit)))
        print("no method:", code_of(lambda: channel.unary_unary("/agents.Agent/Nothing")(b"", timeout=limit)).split()[0])
        waiting = channel.unary_stream("/agents.Agent/Waits")(b"", timeout=limit)
        begun = next(waiting)
        waiting.cancel()
        print("cancelled:", begun.decode(), channel.unary_unary("/agents.Agent/WasCancelled")(b"", timeout=limit).decode())
    with channel_to("nobody.example") as channel:
        print("no environment:", code_of(lambda: channel.unary_unary("/agents.Agent/Unary")(b"", timeout=limit)))


if sys.argv[1] == "serve":
    serve()
else:
    call(sys.argv[2], sys.argv[3])
