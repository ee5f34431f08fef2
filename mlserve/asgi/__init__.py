"""A model server inside an ASGI application, such as FastAPI, Starlette or Django.

mount   (which models, with which settings; checked when the application is imported)
  -> mounted.MountedServer   (the ASGI application, and its start and stop)
       -> direct   (calls from the application's own handlers, without HTTP)
"""
