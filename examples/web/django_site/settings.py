"""The settings of the project: as few as Django needs."""

import os
import secrets

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or secrets.token_hex()
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "django_site.urls"
DATA_UPLOAD_MAX_MEMORY_SIZE = 16 * 2**20
