"""Where links are remembered: ConfigMaps and Leases in the Kubernetes API."""
