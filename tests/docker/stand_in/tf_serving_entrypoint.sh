#!/bin/sh
# As in the image that this stands in for: ports of 8500 and 8501, a model by two variables.
exec tensorflow_model_server --port=8500 --rest_api_port=8501 --model_name="$MODEL_NAME" \
    --model_base_path="$MODEL_BASE_PATH/$MODEL_NAME" "$@"
