"""Statements about transactions are found where they are statements, and nowhere else."""

from __future__ import annotations

import time

import pytest

from headway.sharding.script import single_transaction, statements


def _words(sql: str) -> list[str]:
    return [statement.words[0] for statement in statements(sql)]


def test_a_file_in_one_transaction_of_its_own() -> None:
    sql = "-- shop\nBEGIN;\nCREATE TABLE a (id int);\nCOMMIT;\n"
    script = single_transaction(sql)
    assert script.left_out == (2, 4)
    assert script.text == "-- shop\n      \nCREATE TABLE a (id int);\n       \n"
    assert len(script.text) == len(sql)
    assert not script.refused


@pytest.mark.parametrize(
    "sql",
    [
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 1; END;",
        "begin work; select 1; commit work;",
        "/* a */ BEGIN /* b */ ; SELECT 1; COMMIT",
    ],
)
def test_other_ways_to_say_it(sql: str) -> None:
    script = single_transaction(sql)
    assert len(script.left_out) == 2
    assert script.text.replace("/* a */", "").strip() in ("SELECT 1;", "select 1;")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'a; COMMIT; b';",
        "SELECT 'it''s; COMMIT; b';",
        r"SELECT E'it\'s; COMMIT; b';",
        'CREATE TABLE "x; COMMIT; y" (id int);',
        "-- ; COMMIT;\nSELECT 1;",
        "/* /* ; */ COMMIT; */ SELECT 1;",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN; COMMIT; END $$;",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN $$ x $$; COMMIT; END $body$;",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;",
        "CREATE RULE r AS ON INSERT TO a DO ALSO (SELECT 1; SELECT 2);",
        "COPY a FROM stdin;\nBEGIN;\nCOMMIT;\n\\.\nSELECT 1;",
        "SAVEPOINT a; ROLLBACK TO a; ROLLBACK WORK TO SAVEPOINT a; RELEASE a;",
        "\\echo COMMIT;\nSELECT 1;",
        "SELECT a$1, commit FROM begin;",
    ],
)
def test_words_that_only_look_like_it(sql: str) -> None:
    script = single_transaction(sql)
    assert script.text == sql
    assert not script.left_out
    assert not script.refused


def test_what_follows_a_body_is_seen() -> None:
    sql = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END; COMMIT;"
    assert single_transaction(sql).left_out == (1,)
    assert single_transaction("COPY a FROM stdin;\n1\n\\.\nCOMMIT;").left_out == (4,)
    assert _words("SELECT 1 \\gexec\nCOMMIT;") == ["SELECT", "COMMIT"]


@pytest.mark.parametrize(
    ("sql", "refused"),
    [
        ("BEGIN;\nDROP TABLE a;\nROLLBACK;", (3, "ROLLBACK")),
        ("abort;", (1, "ABORT")),
        ("\\connect shop\nSELECT 1;", (1, "\\connect")),
        ("PREPARE TRANSACTION 'x';", (1, "PREPARE TRANSACTION")),
    ],
)
def test_what_no_single_transaction_can_hold(sql: str, refused: tuple[int, str]) -> None:
    assert single_transaction(sql).refused == (refused,)


@pytest.mark.parametrize("sql", ["SELECT 'open", "$$ open", "/* open", '"open', "COPY a FROM stdin;\n1", "'" * 999])
def test_what_is_not_closed_ends_with_the_file(sql: str) -> None:
    single_transaction(sql)


def test_a_large_file_is_read_quickly() -> None:
    sql = "INSERT INTO a VALUES (1, 'some text; COMMIT;', $$ more $$);\n" * 50_000
    began_s = time.process_time()
    script = single_transaction(sql)
    assert not script.left_out
    assert time.process_time() - began_s < 10
