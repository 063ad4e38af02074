"""The embedded cluster: a real Kafka, a real Redis, a mail sink, the API and workers as child processes."""
