"""The guestbook's pages. The session remembers the visitor's name and counts the visits."""

import csv
import io
from collections.abc import Iterator

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from guestbook.forms import EntryForm
from guestbook.models import Entry

PER_PAGE = 10
EXPORT_BATCH = 200


@require_http_methods(["GET", "HEAD", "POST"])
def entries(request: HttpRequest) -> HttpResponse:
    """The latest entries and the form for a new one."""
    if request.method == "POST":
        form = EntryForm(request.POST, request.FILES)
        if form.is_valid():
            entry = form.save()
            request.session["name"] = entry.name
            messages.success(request, f"Thank you, {entry.name}.")
            return redirect(request.build_absolute_uri(entry.get_absolute_url()))
        status = 422
    else:
        form, status = EntryForm(initial={"name": request.session.get("name", "")}), 200
        request.session["visits"] = request.session.get("visits", 0) + 1
    page = Paginator(Entry.objects.filter(shown=True), PER_PAGE).get_page(request.GET.get("page"))
    values = {"form": form, "page": page, "visits": request.session.get("visits", 0)}
    return render(request, "guestbook/entries.html", values, status=status)


@require_GET
def entry(request: HttpRequest, entry_id: int) -> HttpResponse:
    """One entry."""
    found = get_object_or_404(Entry, pk=entry_id, shown=True)
    values = {"entry": found, "address": request.build_absolute_uri()}
    return render(request, "guestbook/entry.html", values)


@require_GET
def attachment(request: HttpRequest, entry_id: int) -> FileResponse:
    """The file, always as a download: strangers uploaded it."""
    found = get_object_or_404(Entry, pk=entry_id, shown=True)
    if not found.attachment:
        raise Http404
    return FileResponse(found.attachment.open(), as_attachment=True, content_type="application/octet-stream")


@require_GET
def export(request: HttpRequest) -> StreamingHttpResponse:
    """All shown entries as CSV, written while it is read."""
    headers = {"content-disposition": 'attachment; filename="guestbook.csv"'}
    return StreamingHttpResponse(_rows(), content_type="text/csv", headers=headers)


def _rows() -> Iterator[str]:
    yield _line("id", "name", "message")
    for entry in Entry.objects.filter(shown=True).order_by("id").iterator(EXPORT_BATCH):
        yield _line(entry.pk, entry.name, entry.message)


def _line(*values: object) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()
