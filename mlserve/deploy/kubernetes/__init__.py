"""The manifests that run a server on Kubernetes, of a plan and of what only a cluster has.

`values` is what stands in them, as plain data, so that the Helm chart is made of the same manifests
with its own values in their place. `workload` is what runs, `network` who reaches it, `scaling` how
many run, `configuration` what is mounted, and `manifests` all of it as files.
"""
