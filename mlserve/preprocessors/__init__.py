"""How training prepared its images, read from what Hugging Face, torchvision and timm keep of it.

Each source has a module: a pure function of the source's own data. `choice` finds the source that
`--preprocessor` names, and `applied` fills a ModelRequest from what was read.
"""
