"""The flags of tensorflow_model_server: their names, defaults, syntax, and their effect here.

Names and defaults are those of TensorFlow Serving's model_servers/main.cc and server.h. It accepts
`--flag=value`, and `--flag` alone for a boolean; here `--flag value` and hyphens for underscores
are accepted too. The settings of mlserve's own server (`token_file`, `max_queue`) have a flag too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.errors import UsageError
from mlserve.options import Description, described
from mlserve.settings import ServerSettings

Value = bool | int | float | str
INT32_MAX = 2**31 - 1
"""The most bytes of a message, and unlimited rows: as in TensorFlow Serving."""
_TRUE, _FALSE = ("true", "1"), ("false", "0")


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag; the type of its default is the type of its value.

    `ignored` says why it has no effect here, and is empty for a flag that has one. `same` is the
    value that requests what is done here anyway.
    """

    name: str
    default: Value
    help: str
    ignored: str = ""
    same: Value | None = None

    def read(self, text: str) -> Value:
        """Convert the text to a value. Raises UsageError."""
        try:
            return _boolean(text) if isinstance(self.default, bool) else type(self.default)(text)
        except ValueError:
            kind = type(self.default).__name__
            raise UsageError(f"--{self.name} takes a value of type {kind}, not {text!r}") from None

    def usage(self) -> str:
        """Return the flag's line of the usage text."""
        shown = str(self.default).lower() if isinstance(self.default, bool) else self.default
        told = f"No effect here: {self.ignored}." if self.ignored else self.help
        return f"    --{self.name}={shown}\n        {told}\n"


def _boolean(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ValueError(text)
    return text.lower() in _TRUE


def _ignored(name: str, default: Value, why: str, same: Value | None = None) -> Flag:
    return Flag(name, default, "", why, default if same is None else same)


def _own_help(setting: Description) -> str:
    default = _OTHER_DEFAULTS.get(setting.name) or setting.chosen or setting.default
    return setting.text if default is None else f"{setting.text} Default: {default}."


_OTHER_DEFAULTS = {
    "max_request_bytes": f"{INT32_MAX}, or half of the memory where that is less",
    "max_body_memory": "half of the memory",
    "max_batch_length": f"{INT32_MAX}, which means no limit",
}
_ASYNCHRONOUS = "requests are taken by one event loop, and models run on threads of their own"
_TENSORFLOW_ONLY = "the models are run by the TensorFlow library as it is installed"
_LITE = "TensorFlow Lite models are not served"

OWN = tuple(
    setting
    for setting in described(ServerSettings)
    if setting.name
    not in {
        "grpc_socket",  # --grpc_socket_path
        "default_timeout",  # --rest_api_timeout_in_ms
        *("max_batch_size", "max_batch_delay"),  # --batching_parameters_file
        *("tls_cert", "tls_key", "tls_client_ca"),  # --ssl_config_file
    }
)
"""The settings of mlserve's own server that also have a flag here, named with underscores. The
spelling of the server's messages (`--max-pixels`) is accepted as well."""

FLAGS = (
    Flag("port", 8500, "Port for gRPC; 0: any free one."),
    Flag("grpc_socket_path", "", "UNIX socket for gRPC, beside the port."),
    Flag("rest_api_port", 0, "Port for REST; 0: no REST."),
    Flag("rest_api_timeout_in_ms", 30000, "Deadline of a request that does not set one."),
    Flag("rest_api_enable_cors_support", False, "Lets web pages of any origin call the REST API."),
    Flag("model_name", "default", "Name of the model, without --model_config_file."),
    Flag("model_base_path", "", "Absolute path of the folder that holds its version folders."),
    Flag("model_config_file", "", "ModelServerConfig as text: several models, policies, labels."),
    Flag("model_config_file_poll_wait_seconds", 0, "Seconds between readings; 0: read once."),
    Flag(
        "allow_version_labels_for_unavailable_models",
        False,
        "Accepts new labels for versions that are not served yet.",
    ),
    Flag("file_system_poll_wait_seconds", 1, "Seconds between looks for versions; 0: one look."),
    Flag("max_num_load_retries", 5, "Attempts after the first one to load a version."),
    Flag("load_retry_interval_micros", 60_000_000, "Microseconds between two attempts."),
    Flag("enable_batching", False, "Runs requests together as batches."),
    Flag("batching_parameters_file", "", "BatchingParameters as text; needs --enable_batching."),
    Flag("monitoring_config_file", "", "MonitoringConfig as text: the path of the metrics."),
    Flag("ssl_config_file", "", "SSLConfig as text: TLS, on both ports."),
    Flag("tensorflow_session_parallelism", 0, "Threads for the models; 0: one for each CPU."),
    Flag("tensorflow_intra_op_parallelism", 0, "Threads of one operation; 0: as for the models."),
    Flag(
        "allow_unsafe_ops",
        False,
        "Serves models that can read and write files or run Python; tensorflow_model_server has no "
        "such flag, and serves them.",
    ),
    *(Flag(setting.name, "", f"mlserve's own. {_own_help(setting)}") for setting in OWN),
    Flag("version", False, "Prints the versions and exits."),
    Flag("help", False, "Prints this text and exits."),
    _ignored(
        "tensorflow_inter_op_parallelism", 0, "--tensorflow_intra_op_parallelism holds for both"
    ),
    _ignored("rest_api_num_threads", 0, _ASYNCHRONOUS),
    _ignored("grpc_max_threads", 0, _ASYNCHRONOUS),
    _ignored("num_load_threads", 0, "each version is loaded on a thread of its own"),
    _ignored("num_unload_threads", 0, "each version is unloaded on a thread of its own"),
    _ignored("enable_model_warmup", True, "a version is served once it has answered a request"),
    _ignored("num_request_iterations_for_warmup", 0, "each warm-up request is run once"),
    _ignored("enable_grpc_healthcheck_service", False, "the health service is always on", True),
    _ignored("enable_profiler", True, "there is no profiler service", False),
    _ignored("enable_per_model_batching_parameters", False, "all models share one setting"),
    _ignored(
        "enable_signature_method_name_check",
        False,
        "a signature is known by its inputs and outputs, whatever method it declares",
    ),
    _ignored("enable_serialization_as_tensor_content", False, "tensors are written as values"),
    _ignored("grpc_channel_arguments", "", "gRPC's own settings stay as they are"),
    _ignored("flush_filesystem_caches", True, "the system's file cache is left alone", False),
    _ignored("per_process_gpu_memory_fraction", 0.0, _TENSORFLOW_ONLY),
    _ignored("platform_config_file", "", _TENSORFLOW_ONLY),
    _ignored("tensorflow_session_config_file", "", _TENSORFLOW_ONLY),
    _ignored("thread_pool_factory_config_file", "", _TENSORFLOW_ONLY),
    _ignored("mixed_precision", "", _TENSORFLOW_ONLY),
    _ignored("xla_cpu_compilation_enabled", False, _TENSORFLOW_ONLY),
    _ignored("xla_gpu_compilation_enabled", False, _TENSORFLOW_ONLY),
    _ignored("skip_initialize_tpu", False, "there is no TPU support", True),
    _ignored("saved_model_tags", "serve", "the graph tagged serve is served"),
    _ignored("remove_unused_fields_from_bundle_metagraph", True, _TENSORFLOW_ONLY),
    _ignored("use_alts_credentials", False, "there are no ALTS credentials; see --ssl_config_file"),
    _ignored("use_tflite_model", False, _LITE),
    _ignored("prefer_tflite_model", False, _LITE),
    _ignored("num_tflite_pools", 0, _LITE),
    _ignored("num_tflite_interpreters_per_pool", 0, _LITE),
)
"""All known flags, those with an effect here first."""

_BY_NAME = {flag.name: flag for flag in FLAGS}


@dataclass(frozen=True, slots=True)
class Given:
    """The flags of one command line: the value of each, given or by default."""

    values: dict[str, Value]

    def text(self, name: str) -> str:
        """Return the value of a string flag."""
        return str(self.values[name])

    def number(self, name: str) -> int:
        """Return the value of an integer flag."""
        return int(self.values[name])

    def is_on(self, name: str) -> bool:
        """Return whether a boolean flag is on."""
        return bool(self.values[name])

    def own_settings(self) -> dict[str, Any]:
        """Return the given settings of mlserve's own server. Raises UsageError."""
        given = ((setting, self.text(setting.name)) for setting in OWN)
        return {setting.name: setting.read(text) for setting, text in given if text}

    def without_effect(self) -> Iterator[Flag]:
        """Yield the flags that request something that is not done here."""
        for flag in FLAGS:
            value = self.values[flag.name]
            if flag.ignored and value not in (flag.same, flag.default):
                yield flag


def parse(argv: Sequence[str]) -> Given:
    """Parse the command line. Raises UsageError for an unknown or invalid flag."""
    values = {flag.name: flag.default for flag in FLAGS}
    rest = list(argv)
    while rest:
        flag, text = _split(rest)
        values[flag.name] = flag.read(text)
    return Given(values)


def _split(rest: list[str]) -> tuple[Flag, str]:
    """Take the next flag and its value's text off the command line."""
    argument = rest.pop(0)
    name, equals, text = argument.removeprefix("--").partition("=")
    flag = _BY_NAME.get(name.replace("-", "_"))
    if flag is None or not argument.startswith("--"):
        raise UsageError(f"unknown argument: {argument}", hint="--help lists the flags")
    if equals:
        return flag, text
    if isinstance(flag.default, bool):
        return flag, "true"
    if not rest or rest[0].startswith("--"):
        raise UsageError(f"--{name} has no value", hint=f"write --{name}=VALUE")
    return flag, rest.pop(0)


def usage(command: str) -> str:
    return f"usage: {command}\nFlags:\n" + "".join(flag.usage() for flag in FLAGS)
