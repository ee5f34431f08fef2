"""The ingress: one address in front of the replicas, which knows no Ray."""
