"""A hospital's machine: a SuperNode of Flower, and beside it what does the work that it is asked.

Flower would start a new process for each message, which would read all images and compile its programs each time. This
one stays. It calls the ClientApp of this package, and takes no code from the bundle that the server sends.

    python -m fedjax_mri.deploy.node FOLDER
"""

import logging
import pathlib
import socket
import sys
import threading
import time

from fedjax_mri.core.environment import prepare_jax
from fedjax_mri.core.errors import UserError, install, short_message
from fedjax_mri.deploy import federation, site
from fedjax_mri.deploy.site import Site
from fedjax_mri.run import runfolder

try:
    import grpc
    from flwr.common.grpc import create_channel
    from flwr.proto.appio_pb2 import ListAppsToLaunchRequest, RequestTokenRequest
    from flwr.proto.clientappio_pb2_grpc import ClientAppIoStub
    from flwr.supercore.heartbeat import HeartbeatSender, make_app_heartbeat_fn_grpc
    from flwr.supernode.cli import flower_supernode
    from flwr.supernode.runtime.run_clientapp import pull_appinputs, push_appoutputs

    from fedjax_mri.deploy.flower import client_app
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: {missing.name} is missing; {install('flower')}") from None

LOOK_S = 0.5  # between two looks for work
RETRY_S = 10.0  # between two attempts to log in
LOCKED_OUT = (
    "the SuperLink does not let this SuperNode in: its key is not registered, or it is not noticed yet that the one "
    "before has died, which takes a minute"
)


def arguments(own: Site, folder: pathlib.Path, port: int) -> list[str]:
    """Returns the arguments of a hospital's SuperNode, which hands out its work on a port of this machine."""
    words = ["--superlink", own.superlink, "--isolation", "process", "--node-config", f'folder="{folder}"']
    words += ["--clientappio-api-address", f"127.0.0.1:{port}"]
    words += ["--root-certificates", own.certificate] if own.certificate else ["--insecure"]
    return words + (["--auth-supernode-private-key", own.private_key] if own.private_key else [])


def check(folder: pathlib.Path) -> Site:
    """Returns the hospital of a folder. Raises UserError where a file is missing, or its data are not what is read."""
    own = site.read(folder / "hospital.toml")
    for name in ("certificate", "private_key"):
        if (path := getattr(own, name)) and not pathlib.Path(path).is_file():
            raise UserError(f"hospital.toml of {own.name}: {name}={path}: no such file")
    experiments = [runfolder.read_config(path) for path in federation.experiments(folder).values()]
    for absent in federation.check_data(experiments, [own]):
        raise UserError(f"hospital.toml of {absent}")
    return own


def free_port() -> int:
    """Returns a port of this machine that nothing listens to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def serve(port: int) -> None:
    """Does what the SuperNode at a port of this machine is asked, until this process ends."""
    stub = ClientAppIoStub(create_channel(f"127.0.0.1:{port}", insecure=True))
    while True:
        try:
            runs = stub.ListAppsToLaunch(ListAppsToLaunchRequest()).run_ids
            token = stub.RequestToken(RequestTokenRequest(run_id=runs[0])).token if runs else ""
            if token:
                answer(stub, token)
        except grpc.RpcError:  # the SuperNode is not there yet, or not any more
            time.sleep(LOOK_S)
        except Exception as error:  # such as a message of another kind: the SuperNode goes on
            print(f"error: a message was not answered: {short_message(error)}", flush=True)
        time.sleep(LOOK_S)


def answer(stub: ClientAppIoStub, token: str) -> None:
    """Answers one message. One that fails is not answered; Flower tells the server that it was lost."""
    heartbeat = HeartbeatSender(make_app_heartbeat_fn_grpc(stub, token))
    heartbeat.start()
    try:
        message, context, _, _ = pull_appinputs(stub, token)
        push_appoutputs(stub, token, client_app(message, context), context)
    finally:
        heartbeat.stop()


def main(words: list[str]) -> int:
    """Starts the SuperNode of a hospital's folder and works for it until it is stopped; returns the exit code."""
    prepare_jax(devices=1)
    try:
        if len(words) != 1:
            raise UserError("give one folder, of the hospital, as `fedjax-mri deploy` wrote it")
        folder = pathlib.Path(words[0]).resolve()
        own = check(folder)
    except UserError as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 1
    logging.getLogger("flwr").propagate = False  # it has a handler of its own
    while True:
        port = free_port()
        threading.Thread(target=serve, args=(port,), daemon=True).start()
        sys.argv = ["flower-supernode", *arguments(own, folder, port)]
        try:
            flower_supernode()  # in the main thread, as it takes signals
            return 0
        except RuntimeError:
            print(f"{LOCKED_OUT}; trying again in {RETRY_S:.0f} s", flush=True)
            time.sleep(RETRY_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
