"""Ray Serve with its HAProxy mode and the same app: `python overload_ray.py PORT FOLDER`, until SIGTERM.

Bounded as its documentation says, for without a bound it cannot hold: 20 requests at a time, 40 that wait.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys


def _free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def main(port: int, folder: str) -> None:
    """Serve until told to stop."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else it leaves one in the home folder
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/haproxy.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/haproxy.state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": _free_port(),
        "RAY_SERVE_HAPROXY_STATS_PORT": _free_port(),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "PYTHONPATH": os.path.dirname(os.path.abspath(__file__)),
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    import ray
    from overload_app import app
    from ray import serve

    # More cores than there are: they are only numbers to Ray, and its own actors must find room.
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        _temp_dir=folder,
        _node_ip_address="127.0.0.1",
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        bounded = serve.deployment(num_replicas=1, max_ongoing_requests=20, max_queued_requests=40)
        serve.run(bounded(serve.ingress(lambda: app)(type("Paced", (), {}))).bind())
        signal.pause()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
