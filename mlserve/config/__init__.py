"""The configuration file: found, read, checked, and told where each value stands.

    locate        which file counts, and whether it may be trusted
    servers       the tables [servers.NAME]: `read_config`
    table         one table of a document: its keys and values, checked
    document      a TOML file that has been parsed
    positions     the line and column of each key and value

It knows no command: which options there are besides a server's is the command line's business.
"""
