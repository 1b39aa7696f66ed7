"""`tokenmill serve`: a model behind HTTP for OpenAI's clients."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from flows.option_types import model_reference, natural, positive

if TYPE_CHECKING:
    from tasks.store import Store


def add_options(command: argparse.ArgumentParser) -> None:
    """A model by any of its names, an address, and what one client may cost the others."""
    command.epilog = (
        "example: `tokenmill serve --model models:/web-smoke@champion`; then any client of OpenAI's completions with"
        " the base URL http://127.0.0.1:8000/v1. An address that others can reach needs --allow-remote and a key in"
        " TOKENMILL_API_KEY, and a proxy with TLS in front; where there is a key, every client must send it"
    )
    command.add_argument(
        "--model",
        required=True,
        type=model_reference,
        metavar="M",
        help="name[@version|@alias], models:/..., or a checkpoint by folder or URL",
    )
    command.add_argument("--host", default="127.0.0.1", metavar="H", help="address (default: 127.0.0.1)")
    command.add_argument("--port", type=_port, default=8000, metavar="P", help="default: 8000; 0: a free one")
    command.add_argument("--allow-remote", action="store_true", help="an address that others can reach is meant")
    command.add_argument(
        "--max-rows", type=positive, default=8, metavar="N", help="continuations at a time (default: 8)"
    )
    command.add_argument(
        "--max-queue", type=natural, default=64, metavar="N", help="that wait for a place; above: 429 (default: 64)"
    )
    command.add_argument(
        "--max-tokens", type=positive, default=None, metavar="N", help="of an answer (default: as the model can)"
    )
    command.add_argument(
        "--max-body-bytes", type=positive, default=1 << 20, metavar="N", help="of a request (default: 1 MiB)"
    )


def serve(options: argparse.Namespace, store: Store) -> int:
    """Serve until a signal. ValueError for an address that can not, or may not, be served, before a model is loaded."""
    from infra.completion_gate import API_KEY_VARIABLE, check_address, checked_key

    key = checked_key(os.environ.get(API_KEY_VARIABLE))
    check_address(options.host, allow_remote=options.allow_remote, api_key=key)
    from infra.completion_app import Served
    from infra.completion_server import CompletionServer, address_of, bound_socket
    from infra.registry import find_model
    from tasks.completions import CompletionService
    from tasks.generation import TextGenerator

    with bound_socket(options.host, options.port) as bound:
        version = find_model(store, options.model)
        generator = TextGenerator.load(version.folder, version.tokenizer_file)
        max_tokens = generator.model.config.max_seq_len - 1
        names = list(dict.fromkeys([_short(version.reference), version.reference, options.model]))
        served = Served(
            generator=generator,
            service=CompletionService(generator, max_rows=options.max_rows, max_queue=options.max_queue),
            names=names,
            max_tokens=min(options.max_tokens or max_tokens, max_tokens),
            max_body_bytes=options.max_body_bytes,
            api_key=key,
        )
        line = _line(names[0], address_of(bound), key is not None)
        return CompletionServer(served, lambda: print(line, flush=True)).serve_at(bound)


def _short(reference: str) -> str:
    """A registered version as it is; of a checkpoint's path or URL, which is nobody else's business, the end."""
    return reference.rstrip("/").rpartition("/")[2] or reference


def _line(model: str, address: str, has_key: bool) -> str:
    body = json.dumps({"model": model, "prompt": "The", "max_tokens": 32})
    key = ' -H "Authorization: Bearer $TOKENMILL_API_KEY"' if has_key else ""
    json_header = "-H 'Content-Type: application/json'"
    return f"{model} at {address}/v1  (Ctrl-C ends): curl {address}/v1/completions {json_header}{key} -d '{body}'"


def _port(text: str) -> int:
    port = natural(text)
    if port > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: there are 65,535")
    return port
