#!/bin/sh
# Runs TensorFlow Serving in the place of this shell, so that signals reach it. Arguments of the
# container come last and win over what stands here.
set -eu

has_flag() { # NAME ARGUMENT...: whether one of the arguments is that flag
    name=$1
    shift
    for argument in "$@"; do
        case $argument in "$name" | "$name="*) return 0 ;; esac
    done
    return 1
}

# TensorFlow Serving would wait for a first version for ever, and write a line a second.
require_version() { # BASE_PATH
    case $1 in *://*) return ;; esac
    for saved_model in "$1"/[0-9]*/saved_model.pb; do
        [ -r "$saved_model" ] && return
    done
    echo "error: no version of a SavedModel can be read in $1" >&2
    echo "hint: MODEL_BASE_PATH and MODEL_NAME name a folder with $1/1/saved_model.pb" >&2
    exit 2
}

base_path=$MODEL_BASE_PATH/$MODEL_NAME
if ! has_flag --model_config_file "$@" && ! has_flag --model_base_path "$@"; then
    require_version "$base_path"
fi
case $ENABLE_BATCHING in
    true | 1)
        set -- --enable_batching=true \
            --batching_parameters_file="$BATCHING_PARAMETERS_FILE" "$@"
        ;;
    false | 0 | '') ;;
    *)
        echo "error: ENABLE_BATCHING is $ENABLE_BATCHING" >&2
        echo "hint: set it to true or false" >&2
        exit 2
        ;;
esac

# A version that cannot be loaded fails now, not after five more tries of a minute each.
exec tensorflow_model_server \
    --port="$PORT" \
    --rest_api_port="$REST_API_PORT" \
    --model_name="$MODEL_NAME" \
    --model_base_path="$base_path" \
    --monitoring_config_file="$MONITORING_CONFIG_FILE" \
    --file_system_poll_wait_seconds=1 \
    --rest_api_timeout_in_ms=30000 \
    --max_num_load_retries=0 \
    --enable_grpc_healthcheck_service=true \
    --enable_profiler=false \
    "$@"
