"""The paths over REST that client and server know, beside those of the protocols."""

from __future__ import annotations

DECISIONS = "/mlserve/decisions"
"""The last decisions on who was let in: over gRPC `Decisions` of the service `mlserve.Server`."""
SHADOW = "/mlserve/shadow"
"""What shadows and splits have shown: `mlserve.wire.rollouts`; over gRPC `Shadow`."""
REPLICAS = "/mlserve/replicas"
"""The replicas of a server that has several: `mlserve.wire.replicas`."""
