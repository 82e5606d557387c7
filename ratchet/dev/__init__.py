"""What newcomers run and tests stand on: the embedded API, a bed of namespaces, the demo."""
