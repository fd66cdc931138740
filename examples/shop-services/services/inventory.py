"""How many there are of a product: the one service that may change that. Flask, in threads."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask, Response, jsonify, request

from headway import database

app = Flask(__name__)
main = database("main").sync

NAME_MAX = 400
LINES_MAX = 20
UNSETTLED_MAX = 100


@app.get("/stock")
def stock() -> Response:
    """How many there are of each of these products."""
    ids = [int(text) for text in request.args.getlist("ids") if text.isdecimal() and len(text) < 10]
    with main.at() as connection:
        rows = connection.execute("SELECT id, stock FROM products WHERE id = ANY(%s)", (ids,)).fetchall()
    return jsonify({str(number): count for number, count in rows})


@app.post("/reservations")
def reserve() -> tuple[dict[str, Any], int]:
    """Take the stock of all lines, or of none. With the same Idempotency-Key again: what was taken then."""
    name = request.headers.get("Idempotency-Key", "")
    lines = {int(number): int(count) for number, count in (request.get_json()["lines"]).items()}
    if not 0 < len(name) <= NAME_MAX or not 0 < len(lines) <= LINES_MAX or min(lines.values()) < 1:
        return {"detail": "A reservation needs an Idempotency-Key and one to twenty lines."}, 422
    with main.at() as connection:
        mine = connection.execute(
            "INSERT INTO reservations (name, lines) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (name, json.dumps(lines)),
        )
        if mine.rowcount == 0:  # one that is being made elsewhere was waited for
            (taken,) = connection.execute("SELECT lines FROM reservations WHERE name = %s", (name,)).fetchone()
            if {int(number): count for number, count in taken.items()} != lines:
                return {"detail": "This Idempotency-Key was used for another order."}, 409
            return {"taken": taken}, 200
        rows = connection.execute(
            "SELECT id, name, stock FROM products WHERE id = ANY(%s) ORDER BY id FOR UPDATE", (list(lines),)
        ).fetchall()
        missing = set(lines) - {number for number, _name, _left in rows}
        short = [(called, left) for number, called, left in rows if left < lines[number]]
        if missing or short:
            connection.rollback()
            if missing:
                return {"detail": f"There is no product {min(missing)}."}, 422
            return {"detail": f"Only {short[0][1]} of {short[0][0]} left."}, 409
        for number, count in lines.items():
            connection.execute("UPDATE products SET stock = stock - %s WHERE id = %s", (count, number))
    return {"taken": lines}, 201


@app.put("/reservations/<path:name>")
def settle(name: str) -> tuple[str, int]:
    """Its order is there."""
    with main.at() as connection:
        connection.execute("UPDATE reservations SET settled = true WHERE name = %s", (name,))
    return "", 204


@app.delete("/reservations/<path:name>")
def give_back(name: str) -> tuple[str, int]:
    """There will be no order: the stock goes back, once. One that is settled stays."""
    with main.at() as connection:
        row = connection.execute(
            "DELETE FROM reservations WHERE name = %s AND NOT settled RETURNING lines", (name,)
        ).fetchone()
        for number, count in sorted(row[0].items()) if row else ():
            connection.execute("UPDATE products SET stock = stock + %s WHERE id = %s", (count, int(number)))
    return "", 204


@app.get("/unsettled")
def unsettled() -> Response:
    """The oldest reservations of which nobody has said for a minute what became of them."""
    with main.at() as connection:
        rows = connection.execute(
            "SELECT name FROM reservations WHERE NOT settled AND created_at < now() - interval '60 s' "
            "ORDER BY created_at LIMIT %s",
            (UNSETTLED_MAX,),
        ).fetchall()
    return jsonify([name for (name,) in rows])
