"""The site's addresses."""

from django.contrib import admin
from django.urls import path
from guestbook import views

urlpatterns = [
    path("", views.entries, name="entries"),
    path("entries/<int:entry_id>/", views.entry, name="entry"),
    path("entries/<int:entry_id>/attachment", views.attachment, name="attachment"),
    path("export.csv", views.export, name="export"),
    path("admin/", admin.site.urls),
]
