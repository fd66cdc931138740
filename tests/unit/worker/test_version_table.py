"""What env.py's text says of the table in which Alembic notes the revision."""

from __future__ import annotations

import pytest

from headway.worker.revisions import version_table


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("context.configure(connection=c)", ["alembic_version", None]),
        ("context.configure(url=u)\ncontext.configure(connection=c)", ["alembic_version", None]),
        ("configure(connection=c, version_table='mine', version_table_schema='own')", ["mine", "own"]),
        ("context.configure(connection=c, version_table=None)", ["alembic_version", None]),
        ("context.configure(connection=c, version_table=NAME)", None),
        ("context.configure(connection=c, **settings)", None),
        ("context.configure(url=u, version_table='mine')\ncontext.configure(connection=c)", None),
        ("from shared import run\nrun()", None),
        ("context.configure(", None),
    ],
)
def test_the_version_table_is_known_where_the_text_says_it_and_else_only_when_it_is_run(text, told):
    assert version_table(text) == told
