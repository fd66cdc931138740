"""A small web shop: FastAPI, SQLAlchemy and server-rendered pages. It runs under any ASGI server."""
