"""Ask a model server from a Flask handler, within the time that the caller has.

mlserve up --backend onnxruntime
flask --app flask_client run --port 8000
curl --data-binary @horse.jpg -H 'X-Request-Timeout-Ms: 800' http://127.0.0.1:8000/inspect
"""

import os

from flask import Flask, Response, abort, jsonify, request

from mlserve import Client, Deadline, DeadlineExceeded, InvalidInput, MlserveError, Transient
from mlserve.wire.status import http_status, retry_headers

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 16 * 2**20
# One for all threads. It connects at the first call, so a server may fork after this.
client = Client(os.environ.get("MODEL_SERVER", "127.0.0.1:8500"))


@app.post("/inspect")
def inspect() -> Response:
    """Return the label of the image in the body. The time counts from here, the upload included."""
    milliseconds = request.headers.get("X-Request-Timeout-Ms", "5000")
    if not milliseconds.isdecimal() or not 0 < int(milliseconds) <= 600_000:
        abort(400, "X-Request-Timeout-Ms must be a number of milliseconds from 1 to 600000")
    deadline = Deadline.after(int(milliseconds) / 1000)
    answer = client.predict(request.get_data(), timeout=deadline)
    return jsonify(label=answer.label, scores={s.label: s.score for s in answer.scores})


def refuse(error: MlserveError) -> tuple[Response, int, dict[str, str]]:
    """Answer 504 (no time left), 429 or 503 (come back later), or 400 (a bad image)."""
    return jsonify(error=error.message), http_status(error), retry_headers(error)


# Any other error, such as a model that is not there, is no fault of the caller: a 500.
for kind in (DeadlineExceeded, Transient, InvalidInput):
    app.register_error_handler(kind, refuse)
