"""The contract with the container runtime: arguments, configuration, results, delegated plugins."""
