"""The answer certificate: golden inputs whose right answers travel with an artifact.

`golden_inputs` finds what to ask at an export, and `golden` holds it with the reference's answers.
`certificate` is what the manifest says of them, `making` makes both, with the `tolerance` that the
precision allows, and `verdict` is what a runtime here makes of them.
"""
