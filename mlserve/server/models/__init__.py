"""The models of a server: their versions on disk, loaded, followed, leased to requests."""
