"""The app of the overload benchmark for Django: 2 ms of processor time and 10 ms of waiting, in a thread."""

from __future__ import annotations

import os
import time

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import re_path

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of no use outside the benchmark")


def _burn(cpu_s: float) -> None:
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


def paced(_request: HttpRequest) -> HttpResponse:
    _burn(0.001)
    time.sleep(0.010)
    _burn(0.001)
    return HttpResponse(str(os.getpid()), content_type="text/plain")


urlpatterns = [re_path("", paced)]
app = get_wsgi_application()
