"""`--otlp`: spans and metrics for an OpenTelemetry collector. Imported only if they are wanted."""
