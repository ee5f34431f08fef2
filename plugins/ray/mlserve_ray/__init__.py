"""The Ray launcher of mlserve."""
