"""The image pipeline in Python, for every runtime that has it outside its graph.

File bytes -> `image_file` (base64, `jpeg`, `png`, EXIF) -> `steps` (resize, scale, scores) ->
`classifier`, which makes a Runner of any function from pixels to outputs. Needs the extra `images`.
"""
