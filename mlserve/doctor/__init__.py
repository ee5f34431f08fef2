"""Checks of `mlserve doctor`: one module for each area, each yielding findings."""
