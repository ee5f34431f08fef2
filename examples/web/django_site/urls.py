"""The paths of the project; those under /ml/ are the model server's (`asgi.py`)."""

from django.urls import path

from django_site.views import inspect

urlpatterns = [path("inspect", inspect)]
