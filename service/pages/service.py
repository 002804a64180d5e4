"""What the try-it page shows of a decision: each page's context is a dataclass."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from model.cleaning import clean
from model.decision import Decision, PulledBy, Ticket
from service.deep import Receive, unless_gone
from service.state import State

ACTIONS = {
    "auto": ("Routed", "Sure enough to be routed without a person."),
    "suggest": ("Suggested", "Shown to a person as a proposal."),
    "review": ("For review", "A person decides."),
}
_REASONS = {
    "empty": "Nothing readable is left of the text.",
    "unfamiliar": "It is unlike what was seen in training.",
    "unknown_language": "The router did not learn this language.",
}

# Written for this page, in the manner of the trade; none of them is in the training data.
EXAMPLES = {
    "Français": (
        "site hs",
        "Bonjour, depuis 8h ce matin la boutique renvoie une erreur 503, hier soir tout allait bien et personne n'y a touché. "
        "On est en pleine période de soldes, merci de regarder vite.",
    ),
    "Português": (
        "URGENTE!!! INCIDENTE",
        "Boa tarde, queria mudar o meu domínio .pt para vocês, como é que peço o código de autorização e quanto tempo demora a transferência?",
    ),
    "Polski": (
        "",
        "Dzień dobry, od rana pingi do naszych serwerów gubią co trzeci pakiet, w mtr straty zaczynają się na waszym routerze. Nic u siebie nie zmienialiśmy.",
    ),
    "English": (
        "comparing servers",
        "Hi, we run about forty VMs today and will double next year. Which of your dedicated ranges would you pick, and what would ten of them cost over two years?",
    ),
    "Deutsch": (
        "kurze Frage",
        "Guten Tag, ist es normal, dass bei unserem gemieteten Server seit dem Stromtest gestern ein Netzteil orange blinkt? Läuft noch, wollte nur Bescheid geben.",
    ),
    "Español": (
        "factura",
        "Hola, este mes me habéis cobrado dos veces la misma factura en la tarjeta. ¿Podéis devolver uno de los dos cargos? Gracias.",
    ),
    "Italiano": (
        "",
        "Salve, da ieri i fax in arrivo si fermano a metà della seconda pagina, le chiamate normali invece vanno. Potete controllare la linea?",
    ),
}


@dataclass(frozen=True)
class Piece:
    """A stretch of the text; `pull` 1 to 3 towards the answer, -1 to -3 away from it, 0 neither."""

    text: str
    pull: int = 0


@dataclass(frozen=True)
class Question:
    """One target's answer: percentages, and the text with the words that pulled it."""

    name: str
    label: str
    percent: int
    others: list[tuple[str, int]]
    pieces: list[Piece]


@dataclass(frozen=True)
class Result:
    """A decision as a person reads it."""

    action: str
    title: str
    meaning: str
    reasons: list[str]
    path: str
    note: str
    language: str
    queue: str
    priority: str
    minutes: int
    questions: list[Question]
    involved: list[str]


@dataclass(frozen=True)
class TryPage:
    """The first page: a form, and the answer once there is one."""

    version: str
    languages: list[str]
    docs: bool
    subject: str = ""
    body: str = ""
    result: Result | None = None
    examples: list[str] = field(default_factory=lambda: list(EXAMPLES))


async def page(state: State, receive: Receive, subject: str = "", body: str = "") -> TryPage:
    """The page for a text; without text, the empty form. What is tried here is not stored."""
    head = state.router.languages
    languages = list(head.labels) if head else []
    result = await _result(state, receive, subject, body) if subject.strip() or body.strip() else None
    return TryPage(state.router.version, languages, state.settings.shows_docs, subject, body, result)


async def _decide(state: State, receive: Receive, ticket: Ticket) -> Decision:
    """By the deep path where the fast path has doubts, as `/classify` does."""
    decider = state.decider
    texts = decider.clean([ticket])
    answers = decider.answer([ticket], texts, explain=True)
    (decision,) = decider.conclude([ticket], texts, answers, explain=True)
    if answers.doubtful[0] and state.deep.admit(decider, 1):
        found = await unless_gone(state.deep.ask(decider, [ticket], texts), receive)
        decision = next((again for again in found if again is not None), decision)
    return decision


async def _result(state: State, receive: Receive, subject: str, body: str) -> Result:
    decision = await _decide(state, receive, Ticket(subject, body))
    text = clean(subject, body)
    title, meaning = ACTIONS[decision["action"]]
    return Result(
        action=decision["action"],
        title=title,
        meaning=meaning,
        reasons=[explain_reason(code) for code in decision["reasons"]],
        path=decision["path"],
        note=decision.get("explanation_note", ""),
        language=decision["language"]["code"],
        queue=decision["route"]["queue"],
        priority=decision["route"]["priority"],
        minutes=decision["route"]["respond_within_minutes"],
        questions=list(_questions(decision, text)),
        involved=decision["also_involve"],
    )


def _questions(decision: Decision, text: str) -> Iterator[Question]:
    for name, answer in decision["labels"].items():
        others = [(other["label"], _percent(other["confidence"])) for other in answer["alternatives"] if other["confidence"] >= 0.005]
        marked = list(pieces(text, decision["explanation"][name]))
        yield Question(name, answer["label"], _percent(answer["confidence"]), others, marked)


def pieces(text: str, phrases: list[PulledBy]) -> Iterator[Piece]:
    """The whole text, cut where the phrases begin and end."""
    strongest = max((abs(phrase["weight"]) for phrase in phrases), default=0.0)
    done = 0
    for phrase in sorted(phrases, key=lambda found: found["start"]):
        if phrase["start"] > done:
            yield Piece(text[done : phrase["start"]])
        strength = 1 + min(2, int(3 * abs(phrase["weight"]) / strongest)) if strongest else 1
        yield Piece(text[phrase["start"] : phrase["end"]], strength if phrase["weight"] > 0 else -strength)
        done = phrase["end"]
    if done < len(text):
        yield Piece(text[done:])


def explain_reason(code: str) -> str:
    """A reason code of a decision as a sentence."""
    if code in _REASONS:
        return _REASONS[code]
    what, _, which = code.partition("_")
    if what == "possible":
        return f"It may be an {which} after all, and that would be costly to miss."
    return f"Not sure enough of the {which} to keep the promised precision."


def _percent(share: float) -> int:
    return min(99, round(100 * share))  # nobody is ever wholly sure
