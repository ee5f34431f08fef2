"""A Django project with a model server mounted at /ml, for any ASGI server.

    mlserve export --backend onnxruntime --model efficientnet_lite0
    uvicorn django_site.asgi:application
    curl --data-binary @horse.jpg http://127.0.0.1:8000/inspect
    curl --data-binary @horse.jpg http://127.0.0.1:8000/ml/v1/models/efficientnet_lite0:predict

Django has no lifespan, so Starlette, which mlserve's server needs anyway, routes between the two.
"""

import os

from django.core.asgi import get_asgi_application
from starlette.applications import Starlette
from starlette.routing import Mount

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site.settings")
django = get_asgi_application()  # before anything that imports a view

from django_site.serving import serving  # noqa: E402

routes = [Mount("/ml", serving), Mount("/", django)]
application = Starlette(routes=routes, lifespan=serving.lifespan)
