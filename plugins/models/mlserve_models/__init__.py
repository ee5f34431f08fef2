"""A plugin of mlserve."""
