"""The tests of mlserve. They import what they share as `tests.harness`."""
