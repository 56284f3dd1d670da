"""A web service that classifies images with an exported model.

    python examples/server/app.py MODEL.onnx [--host 127.0.0.1] [--port 8000]
    LCPRUNE_MODEL=MODEL.onnx uvicorn --app-dir examples/server --factory app:from_environment

`POST /classify`, `GET /healthz` and `GET /metrics`; README.md beside this file describes them.
"""

import argparse
import math
import os
import sys
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from metrics import CONTENT_TYPE, Metrics
from PIL import Image
from refusal import REASONS, RefusalError
from uploads import FORM, FORMATS, Limits, Upload, decode, read_uploads
from worker import Worker

from lcprune import ProgressiveSession
from lcprune.errors import LcpruneError, OnnxModelError

FILE = {"type": "string", "format": "binary"}
FILES = {"type": "object", "properties": {"file": {"type": "array", "items": FILE}}}
DESCRIPTION = {
    "requestBody": {
        "content": {FORM: {"schema": FILES}, **{kind: {"schema": FILE} for kind in FORMATS}},
        "required": True,
    },
    "parameters": [
        {
            "name": "threshold",
            "in": "query",
            "description": "Confidence from which an image leaves: one for all early exits, or one for each.",
            "schema": {"type": "array", "items": {"type": "number"}},
        }
    ],
}
"""Of ``/classify``, for ``/openapi.json``: it reads its body by itself, so FastAPI cannot know."""


def create_app(session: ProgressiveSession, limits: Limits, workers: int = 1) -> FastAPI:
    """The service for a model; `workers` is the number of requests that are decoded and classified at once."""
    # For good and not with catch_warnings, which does not keep threads apart.
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    worker = Worker(workers, limits.requests, limits.timeout_s)
    metrics = Metrics([known.name for known in session.info.exits], REASONS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(title="lcprune", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.post("/classify", openapi_extra=DESCRIPTION)
    async def classify(request: Request) -> Response:
        """Class, confidence and exit of each image."""
        start, status = time.perf_counter(), 500
        try:
            thresholds = read_thresholds(request)
            rows = await worker.run(
                lambda: read_uploads(request, limits),
                lambda uploads: classify_uploads(session, uploads, thresholds, limits),
            )
            metrics.count_images(row["exit_index"] for row in rows)
            status = 200
            return JSONResponse({"images": rows})
        except RefusalError as refusal:
            metrics.count_rejected(refusal.reason)
            status = refusal.status
            return JSONResponse({"error": refusal.message}, status, refusal.headers)
        finally:
            metrics.count_request(status, time.perf_counter() - start)

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """That the service is up, and with which model."""
        exits = [known.name for known in session.info.exits]
        return {"status": "ok", "model": session.name, "classes": len(session.info.classes), "exits": exits}

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return app


def read_thresholds(request: Request) -> float | list[float] | None:
    """``?threshold=`` of a request, once or once per early exit; None for those of the model.

    Raises:
        RefusalError: If one is no number.
    """
    try:
        values = [float(text) for text in request.query_params.getlist("threshold")]
    except ValueError:
        raise RefusalError(400, "bad_threshold", "a threshold is not a number") from None
    return values[0] if len(values) == 1 else values or None


def classify_uploads(
    session: ProgressiveSession, uploads: list[Upload], thresholds: float | list[float] | None, limits: Limits
) -> list[dict[str, Any]]:
    """What the service answers about some images, in their order.

    Raises:
        RefusalError: If an image cannot be read, or the thresholds do not fit the model.
    """
    info = session.info
    pixels = np.stack([decode(upload, info.input, limits) for upload in uploads])
    try:
        labels, confidences, exits = session(pixels, thresholds)
    except OnnxModelError as error:
        raise RefusalError(400, "bad_threshold", error.problem) from None
    return [
        {
            "name": upload.name,
            "class": info.classes[label],
            "confidence": confidence if math.isfinite(confidence) else None,
            "exit": info.exits[index].name,
            "exit_index": index,
            "macs_ratio": info.exit_macs[index] / info.main_macs,
        }
        for upload, label, confidence, index in zip(
            uploads, labels.tolist(), confidences.tolist(), exits.tolist(), strict=True
        )
    ]


def from_environment() -> FastAPI:
    """The service for the model that ``$LCPRUNE_MODEL`` names, for servers that take a factory."""
    return create_app(ProgressiveSession(os.environ["LCPRUNE_MODEL"]), Limits())


def parse() -> argparse.Namespace:
    """The command line."""
    usual = Limits()
    parser = argparse.ArgumentParser(description="Classify images over HTTP.")
    parser.add_argument("model", nargs="?", default=os.environ.get("LCPRUNE_MODEL"), help="default: $LCPRUNE_MODEL")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-body-bytes", type=int, default=usual.body_bytes)
    parser.add_argument("--max-pixels", type=int, default=usual.image_pixels, help="of one image")
    parser.add_argument("--max-images", type=int, default=usual.images, help="in one request")
    parser.add_argument("--max-requests", type=int, default=usual.requests, help="at once, those that wait included")
    parser.add_argument("--timeout-s", type=float, default=usual.timeout_s)
    parser.add_argument("--workers", type=int, default=1, help="requests that are classified at once")
    parser.add_argument("--threads", type=int, help="of onnxruntime, for each of them")
    arguments = parser.parse_args()
    if arguments.model is None:
        parser.error("name a model, or set LCPRUNE_MODEL")
    counts = ("max_body_bytes", "max_pixels", "max_images", "max_requests", "timeout_s", "workers")
    if wrong := [name for name in counts if getattr(arguments, name) <= 0]:
        parser.error(f"--{wrong[0].replace('_', '-')} must be more than 0")
    return arguments


def main() -> int:
    """Read the command line and serve until interrupted; gives the exit code."""
    arguments = parse()
    limits = Limits(
        body_bytes=arguments.max_body_bytes,
        image_pixels=arguments.max_pixels,
        images=arguments.max_images,
        requests=arguments.max_requests,
        timeout_s=arguments.timeout_s,
    )
    try:
        session = ProgressiveSession(arguments.model, threads=arguments.threads)
    except LcpruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    uvicorn.run(create_app(session, limits, arguments.workers), host=arguments.host, port=arguments.port, ws="none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
