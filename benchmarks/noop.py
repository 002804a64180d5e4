"""The least that a FastAPI service does for the same request: read and check the ticket, answer a fixed dictionary, store nothing."""

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Ticket(BaseModel):
    ticket_id: str | None = None
    subject: str = ""
    body: str = ""


@app.post("/classify")
async def classify(ticket: Ticket) -> dict[str, str | float]:  # noqa: ARG001
    return {"kind": "incident", "confidence": 0.9, "department": "hosting", "language": "fr"}


@app.get("/readyz")
async def ready() -> dict[str, str]:
    return {"status": "ready"}
