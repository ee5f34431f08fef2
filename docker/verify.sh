#!/usr/bin/env bash
# Proves the image of docker/tfserving with the real TensorFlow Serving, for whoever can pull it: build,
# run with few rights, predict over gRPC and REST, health, metrics, batching, a model that
# is absent, stopping, and `mlserve up --launcher docker` and `mlserve down`. It leaves nothing running.
#
#   docker/verify.sh            # needs docker, mlserve on PATH, and the network
#   MODEL=inception_v3 TFS_VERSION=2.19.1 BUILD_OPTIONS=--network=host docker/verify.sh
set -euo pipefail
cd "$(dirname "$0")/.."

model=${MODEL:-efficientnet_lite0}
photo=${PHOTO:-examples/horse.jpg}
expected=${EXPECTED:-sorrel}
image=mlserve-verify-tfserving
read -r -a build_options <<< "${BUILD_OPTIONS:-}"
hardened=(--init --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges)
home=$(mktemp -d)
export MLSERVE_HOME=$home
containers=()
passed=0
failed=0

cleanup() {
    mlserve down --all > /dev/null 2>&1 || true
    for container in "${containers[@]}"; do
        docker rm --force --volumes "$container" > /dev/null 2>&1 || true
    done
    rm -rf "$home"
}
trap cleanup EXIT

check() { # WHAT COMMAND...: runs the command, and says whether it succeeded
    local what=$1
    shift
    if "$@" > "$home/output" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
        sed 's/^/        /' "$home/output"
    fi
}

start() { # OPTION... -- ARGUMENT...: sets `container`
    local options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    container=$(docker run --detach --publish 127.0.0.1::8500 --publish 127.0.0.1::8501 \
        --health-interval 1s "${hardened[@]}" "${options[@]}" "$image" "$@")
    containers+=("$container")
}

published() { docker port "$container" "$1" | head -n 1; }

is_healthy() {
    for _ in $(seq 120); do
        case $(docker inspect --format '{{.State.Status}} {{.State.Health.Status}}' "$container") in
            'running healthy') return 0 ;;
            exited* | dead*) break ;;
        esac
        sleep 1
    done
    docker logs "$container"
    return 1
}

answers() { # ENDPOINT: whether the photo gets the label that is expected
    [ "$(mlserve predict "$photo" --endpoint "$1" --model "$model" --timeout 30)" = "$expected" ]
}

has_metrics() {
    python3 - "http://$(published 8501)/monitoring/prometheus/metrics" <<'PYTHON'
import sys
import urllib.request

text = urllib.request.urlopen(sys.argv[1], timeout=10).read().decode()
sys.exit(":tensorflow:serving:" not in text)
PYTHON
}

ends_with_hint() { # whether the container ended by itself, and said what to do
    [ "$(docker wait "$container")" -ne 0 ] && docker logs "$container" 2>&1 | grep -q '^hint: '
}

stops_within() { # SECONDS
    local begin=$SECONDS
    docker stop --time 30 "$container" && [ $((SECONDS - begin)) -le "$1" ]
}

is_unprivileged() { [ "$(docker exec "$container" id -u)" = 10001 ]; }

launches_and_goes() {
    mlserve export --backend tfserving --model "$model" &&
        mlserve up --backend tfserving --launcher docker \
            ${TENSORFLOW_SERVING_IMAGE:+--image "$TENSORFLOW_SERVING_IMAGE"} &&
        [ "$(mlserve predict "$photo" --timeout 30)" = "$expected" ] &&
        mlserve ps && mlserve down &&
        [ -z "$(docker ps --all --quiet --filter "label=mlserve.home=$home/state")" ]
}

docker build "${build_options[@]}" --file docker/tfserving/Dockerfile --tag "$image" \
    --build-arg MODEL="$model" ${TFS_VERSION:+--build-arg TFS_VERSION="$TFS_VERSION"} \
    ${TENSORFLOW_SERVING_IMAGE:+--build-arg TENSORFLOW_SERVING_IMAGE="$TENSORFLOW_SERVING_IMAGE"} \
    ${PYTHON_IMAGE:+--build-arg PYTHON_IMAGE="$PYTHON_IMAGE"} \
    ${EXPORT_IMAGE:+--build-arg EXPORT_IMAGE="$EXPORT_IMAGE"} .

start --
check 'becomes healthy, with a read-only root and no capabilities' is_healthy
check 'runs as user 10001' is_unprivileged
check 'answers over gRPC' answers "$(published 8500)"
check 'answers over REST' answers "http://$(published 8501)"
check 'answers the second time' answers "$(published 8500)"
check 'writes metrics' has_metrics
check 'stops within 3 s' stops_within 3

start --env ENABLE_BATCHING=true -- --rest_api_timeout_in_ms=20000
check 'becomes healthy with batching' is_healthy
check 'answers with batching' answers "$(published 8500)"

start --env MODEL_NAME=absent --
check 'a model that is absent ends the container with a hint' ends_with_hint

check 'mlserve up --launcher docker, predict, ps, down' launches_and_goes

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
