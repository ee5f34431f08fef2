#!/bin/bash
# Succeeds when a version of the model is available. The image of TensorFlow Serving has neither curl
# nor Python, and a status of 200 says nothing: it is 200 while the model still loads.
set -u
exec 3<>"/dev/tcp/127.0.0.1/$REST_API_PORT" || exit 1
printf 'GET /v1/models/%s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$MODEL_NAME" >&3
while IFS= read -r -t 2 line <&3 || [ -n "$line" ]; do
    case $line in *'"AVAILABLE"'*) exit 0 ;; esac
    line=
done
exit 1
