"""Attachments reach the model: an image, a PDF and a text, and the log notes them without their content."""

from __future__ import annotations

import base64
import json
import zlib

from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.interactions.conftest import texts


def png() -> bytes:
    """A picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (1).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    pixel = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


PDF = b"""%PDF-1.1
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj
trailer<</Root 1 0 R>>
"""


async def test_an_image_a_pdf_and_a_text_reach_the_api(service: Service) -> None:
    attachments = [
        pb.Attachment(media_type="image/png", data=png()),
        pb.Attachment(media_type="application/pdf", data=PDF, title="a paper"),
        pb.Attachment(media_type="text/plain", data=b"TEXT MARK", title="a note"),
        pb.Attachment(media_type="image/jpeg", url="https://example.com/a.jpg"),
    ]
    response = await service.run("request: messages", attachments=attachments)
    events = await service.events(response.session_id)
    blocks = json.loads(texts(events)[0])[0]["content"]
    found = {block["type"] + "/" + block["source"]["type"]: block for block in blocks if "source" in block}
    assert set(found) == {"image/base64", "document/base64", "document/text", "image/url"}
    assert found["image/base64"]["source"]["media_type"] == "image/png"
    assert base64.b64decode(found["document/base64"]["source"]["data"]) == PDF
    assert found["document/base64"]["title"] == "a paper"
    assert found["document/text"]["source"]["data"] == "TEXT MARK"
    assert found["image/url"]["source"]["url"] == "https://example.com/a.jpg"
    [prompt] = [event for event in events if event.uuid == response.turn.turn_id]
    notes = [json.loads(block.unknown.json) for block in prompt.user_message.content if block.HasField("unknown")]
    assert [note.get("bytes") for note in notes] == [len(png()), len(PDF), len(b"TEXT MARK"), None]


async def test_attachments_may_stand_alone_and_go_with_messages(service: Service) -> None:
    note = pb.Attachment(media_type="text/plain", data=b"TEXT MARK")
    alone = await service.run("", attachments=[note])
    assert alone.state == pb.SESSION_STATE_COMPLETED
    started = await service.execute("slow: 1", session_id=alone.session_id)
    await service.until(started.session_id, pb.SESSION_PHASE_WORKING)
    await service.stub.SendMessage(
        pb.SendMessageRequest(session_id=started.session_id, text="request: messages", attachments=[note])
    )
    status = await service.rest(started.session_id)
    assert status.result.result.count("TEXT MARK") == 2
