"""The answer certificate: golden inputs whose right answers travel with an artifact.

`golden` are the inputs with the reference's answers, `certificate` is what the manifest says of
them, `making` makes both at an export, with the `tolerance` that the precision allows, and
`verdict` is what a runtime here makes of them.
"""
