"""The try-it page: it works without its script, shows what pulled the answer, and trusts no text."""

from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from selectolax.lexbor import LexborHTMLParser, LexborNode

from model.cleaning import clean
from model.taxonomy import load_taxonomy
from tests.serving import INCIDENT, QUESTION, Service, error_of

pytestmark = pytest.mark.anyio

HOSTILE = "<script>alert('1')</script><img src=x onerror=alert(2)>\"'></textarea></title><b>"
ALWAYS_LOCAL = ("src", "href", "action")


def parse(answer: httpx.Response) -> LexborHTMLParser:
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return LexborHTMLParser(answer.text)


def one(page: LexborHTMLParser | LexborNode, selector: str) -> LexborNode:
    found = page.css(selector)
    assert len(found) == 1, f"{len(found)} times {selector}"
    return found[0]


async def submit(client: httpx.AsyncClient, page: LexborHTMLParser, texts: dict[str, str]) -> LexborHTMLParser:
    """What a browser without scripts does with the page's form."""
    form = one(page, "form")
    assert form.attributes["method"] == "post"
    assert form.attributes.get("enctype") is None  # URL-encoded
    assert form.css("button[type=submit]")
    names = [field.attributes["name"] for field in form.css("input, textarea, select")]
    assert set(texts) <= set(names)
    return parse(await client.post(form.attributes["action"] or "/", data={str(name): texts.get(str(name), "") for name in names}))


async def test_the_form_works_without_a_script(client: httpx.AsyncClient) -> None:
    page = parse(await client.get("/"))
    assert not page.css(".verdict")
    answered = await submit(client, page, {"subject": "URGENTE!!!", "body": QUESTION})
    assert len(answered.css("#answer .verdict")) == 1
    found = [" ".join(heading.text().split()) for heading in answered.css("#answer h2")]
    assert found[0].startswith("kind advisory")
    assert found[1].startswith("department domains")
    assert "domains" in one(answered, "#answer .route code").text()


async def test_the_form_keeps_what_was_typed(client: httpx.AsyncClient) -> None:
    answered = await submit(client, parse(await client.get("/")), {"subject": 'a "b" & <c>', "body": "first\nsecond & <third>"})
    assert one(answered, "input[name=subject]").attributes["value"] == 'a "b" & <c>'
    assert one(answered, "textarea[name=body]").text() == "first\nsecond & <third>"


@pytest.mark.parametrize("texts", [{}, {"subject": "", "body": ""}, {"subject": "  ", "body": "\r\n"}])
async def test_nothing_typed_nothing_answered(client: httpx.AsyncClient, texts: dict[str, str]) -> None:
    page = parse(await client.post("/", data=texts))
    assert not page.css(".verdict")
    assert len(page.css("form")) == 1


async def test_every_example_is_answered(client: httpx.AsyncClient) -> None:
    links = parse(await client.get("/")).css(".examples a")
    assert len(links) == len(load_taxonomy().languages["core"]) == 7
    for link in links:
        target = urlsplit(str(link.attributes["href"]))
        assert dict(parse_qsl(target.query)) == {"example": link.text()}
        page = parse(await client.get(str(link.attributes["href"])))
        assert one(page, "textarea").text()
        assert len(page.css(".verdict")) == 1


@pytest.mark.parametrize("example", ["", "nothing of ours", HOSTILE])
async def test_an_example_that_does_not_exist_is_the_empty_form(client: httpx.AsyncClient, example: str) -> None:
    page = parse(await client.get("/", params={"example": example}))
    assert one(page, "textarea").text() == ""
    assert not page.css(".verdict")


@pytest.mark.parametrize("field", ["subject", "body"])
@pytest.mark.parametrize("headers", [{}, {"X-Part": "answer"}])
async def test_a_hostile_text_stays_text(client: httpx.AsyncClient, field: str, headers: dict[str, str]) -> None:
    harmless = parse(await client.post("/", data={field: "server down"}, headers=headers))
    hostile = parse(await client.post("/", data={field: HOSTILE + " server down"}, headers=headers))
    for dangerous in ("script", "img", "b", "title", "textarea", "[onerror]"):
        assert len(hostile.css(dangerous)) == len(harmless.css(dangerous)), dangerous


async def test_the_words_that_pulled_are_marked_in_the_text(client: httpx.AsyncClient) -> None:
    subject, body = "a < b & c", INCIDENT
    page = parse(await client.post("/", data={"subject": subject, "body": body}))
    texts = page.css("#answer .question .text")
    assert len(texts) == 2
    for text in texts:
        assert text.text() == clean(subject, body)
        marks = text.css("mark")
        assert marks
        assert {mark.attributes["class"] for mark in marks} <= {"for-1", "for-2", "for-3", "against"}
        assert all(mark.text() in text.text() for mark in marks)
    assert texts[0].css("mark.for-3")


async def test_the_script_gets_only_the_answers_part(client: httpx.AsyncClient) -> None:
    whole = await client.post("/", data={"body": INCIDENT})
    part = await client.post("/", data={"body": INCIDENT}, headers={"X-Part": "answer"})
    assert part.status_code == 200
    assert part.headers["content-type"] == "text/html; charset=utf-8"
    assert "<html" not in part.text
    assert "<form" not in part.text
    assert part.text.strip()
    assert part.text.strip() in whole.text


async def test_what_is_tried_is_not_stored(service: Service) -> None:
    await service.client.post("/", data={"subject": "hello", "body": INCIDENT})
    await service.client.get("/", params={"example": "English"})
    await service.classify(ticket_id="after them", body=INCIDENT)
    assert [row["ticket_id"] for row in service.rows()] == ["after them"]


@pytest.mark.parametrize("body", [b"body=\xff", b"&".join(b"a%d=b" % i for i in range(9))])
async def test_a_form_that_is_none_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 422
    assert error_of(answer) == "invalid_field"


async def test_all_that_a_page_loads_comes_from_this_service_and_is_there(client: httpx.AsyncClient) -> None:
    page = parse(await client.post("/", data={"body": INCIDENT}))
    links = {str(node.attributes[name]) for name in ALWAYS_LOCAL for node in page.css(f"[{name}]")} - {"#main"}
    assert {"/static/style.css", "/static/try.js", "/static/icon.svg", "/docs", "/taxonomy", "/model", "/metrics"} <= links
    for link in links:
        assert link.startswith("/"), link
        assert not link.startswith("//"), link
        assert (await client.get(link)).status_code == 200, link


async def test_a_page_needs_nothing_that_its_policy_forbids(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", data={"body": INCIDENT})
    page = parse(answer)
    assert "unsafe-inline" not in answer.headers["content-security-policy"]
    assert not page.css("style, [style]")
    assert all(script.attributes.get("src") and not script.text() for script in page.css("script"))
    assert not [node.tag for node in page.css("*") if any(name.startswith("on") for name in node.attributes)]


async def test_every_field_has_its_label(client: httpx.AsyncClient) -> None:
    page = parse(await client.get("/"))
    for field in page.css("input, textarea"):
        assert one(page, f"label[for={field.attributes['id']}]").text()
