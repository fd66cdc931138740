from django import forms

from guestbook.models import Entry

ATTACHMENT_MAX_BYTES = 20 * 2**20


class EntryForm(forms.ModelForm):
    """What a visitor fills in."""

    class Meta:
        model = Entry
        fields = ("name", "message", "attachment")

    def clean_attachment(self):
        attachment = self.cleaned_data["attachment"]
        if attachment and attachment.size > ATTACHMENT_MAX_BYTES:
            raise forms.ValidationError("A file may have 20 MiB at most.")
        return attachment
