"""Exit code 0 where a client would be served: health.py prefect|mlflow|worker, started through entry.sh.

The first two ask, with the clients' own address and password, a question that takes the database to answer. Their
/health says that all is well also where nobody gets in.
"""

import base64
import os
import sys
import urllib.request

_TIMEOUT_S = 8


def _request(url: str, credentials: str = "", body: bytes | None = None) -> urllib.request.Request:
    headers = {"Content-Type": "application/json"}
    if credentials:
        headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    return urllib.request.Request(url, body, headers)  # noqa: S310 - http, from our own configuration


def _question(service: str) -> urllib.request.Request:
    environment = os.environ
    if service == "prefect":
        return _request(f"{environment['PREFECT_API_URL']}/flows/count", environment["PREFECT_API_AUTH_STRING"], b"{}")
    if service == "mlflow":
        return _request(
            f"{environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1",
            f"{environment['MLFLOW_TRACKING_USERNAME']}:{environment['MLFLOW_TRACKING_PASSWORD']}",
        )
    # the worker's own page: whether it has asked for flow runs lately
    return _request(f"http://127.0.0.1:{environment['PREFECT_WORKER_WEBSERVER_PORT']}/health")


def main(service: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(_question(service), timeout=_TIMEOUT_S):
            return 0
    except OSError as error:  # an HTTP error is one
        print(f"{service}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
