"""The page for people at `/`, and the readable form of the OpenAPI document at `/docs`.

    page.html, docs.html   the two documents
    token.html             what both have: the form for the token
    style.css              how both look
    dom.js                 elements, numbers as text, the clipboard
    server.js              requests, the token, errors, JSON without lost digits
    tokens.js              the form for the token
    models.js              what is served, and what a signature takes
    table.js               a CSV file as inputs, by the rules of `mlserve.rows`
    question.js            the form, and the request that it makes
    image.js               the image, as the model sees it
    commands.js            the same request for a shell, curl and Python
    answer.js              an answer, or an error, as it is shown
    load.js                the load, from the metrics
    files.js               files that are dropped, pasted or chosen
    page.js                what happens when
    docs.js                the OpenAPI document as text

`documents` puts styles and scripts into their document, so that a browser gets one file.
"""
