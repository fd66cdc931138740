from django.contrib import admin

from guestbook.models import Entry


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):
    """The owner reads, hides and removes entries."""

    list_display = ("name", "message", "shown", "created_at")
    list_filter = ("shown",)
    search_fields = ("name", "message")
