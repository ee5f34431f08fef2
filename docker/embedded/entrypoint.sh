#!/bin/sh
# Runs the embedded server in the place of this shell, so that signals reach it. Arguments of the
# container are options of the server: `docker run IMAGE --max-queue 8`.
set -eu
# -P: a module in the current folder must not stand in for one of the server's.
exec python -P -m mlserve.server \
    --backend "$BACKEND" \
    --model="$MODEL_NAME" \
    --base-path "$MODEL_BASE_PATH/$MODEL_NAME" \
    --host 0.0.0.0 \
    --grpc-port "$PORT" \
    --rest-port "$REST_API_PORT" \
    "$@"
