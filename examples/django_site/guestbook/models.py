"""What a visitor leaves behind."""

from django.db import models
from django.urls import reverse


class Entry(models.Model):
    """A few words, and a file if the visitor likes."""

    name = models.CharField(max_length=80)
    message = models.TextField(max_length=2000)
    attachment = models.FileField(upload_to="attachments/", blank=True)
    shown = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return f"{self.name}: {self.message[:40]}"

    def get_absolute_url(self) -> str:
        return reverse("entry", args=(self.pk,))
