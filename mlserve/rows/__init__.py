"""Tables as questions: rows of files, the model's inputs they become, and the answers by row.

`kinds` says what a file is, and `files` opens it; `delimited`, `objects` and `arrays` read it as a
`Table`. `columns` and `cells` turn its rows into a signature's inputs, `reading` those of several
files in turn. `asking` sends them in batches, `writers` write the answers, and `resuming` finds
those that are already there. `given` and `requests` read the inputs of one request.
"""
