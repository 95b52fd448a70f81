"""What a front or a forwarding gateway says is free only where it proves that nothing was taken."""

from __future__ import annotations

import json

import pytest
from multidict import CIMultiDict

from imagen_async.errors import Charge, Verdict
from imagen_async.wire.verdict import judge_error_document, judge_status
from tests.wire.lost_words import PHRASES, WRAPPERS
from tests.wire.recorded_fronts import CLAIMED_FREE, SEEN, TOLD, Said

NONE = CIMultiDict[str]()
ALL = {said.name: said for said in (*SEEN, *TOLD)}


def test_no_record_hides_another() -> None:
    """Each record has a name of its own, and what was not recorded names its source."""
    names = [said.name for said in (*SEEN, *TOLD)]
    assert sorted(ALL) == sorted(names)
    assert all(said.source for said in TOLD)
    assert len(set(PHRASES)) == len(PHRASES) >= 31


@pytest.mark.parametrize("name", [name for name, said in ALL.items() if said.taken is not False])
def test_an_order_that_may_have_been_taken_is_not_free(name: str) -> None:
    """An answer that was, or may be, said of an order that the origin took never says charge no."""
    said = ALL[name]
    judged = judge_status(said.status, CIMultiDict(said.headers), said.body)
    assert judged.charge is not Charge.NO


@pytest.mark.parametrize("name", [name for name, said in ALL.items() if said.taken is False])
def test_an_order_that_was_not_passed_on_is_free(name: str) -> None:
    """An answer that proves that nothing was passed on is a refusal, and costs nothing."""
    said = ALL[name]
    judged = judge_status(said.status, CIMultiDict(said.headers), said.body)
    assert (judged.verdict, judged.charge) == (Verdict.REFUSED, Charge.NO)


@pytest.mark.parametrize("said", CLAIMED_FREE, ids=lambda said: said.name)
def test_what_is_told_as_free_and_is_not_is_never_sent_again(said: Said) -> None:
    """An answer known to be taken for a mistake of the caller's ends the call at once."""
    judged = judge_status(said.status, NONE, said.body)
    assert (judged.verdict, judged.again) == (Verdict.REJECTED, False)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("status", [500, 503, 529])
def test_the_words_of_a_lost_answer_are_not_free(wrapper: str, status: int) -> None:
    """However a gateway wraps what its own client says of a lost answer, it may have cost."""
    bodies = {phrase: WRAPPERS[wrapper](phrase) for phrase in PHRASES}
    judged = {phrase: judge_status(status, NONE, body) for phrase, body in bodies.items()}
    assert not [phrase for phrase, one in judged.items() if one.charge is Charge.NO]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_nor_are_they_inside_a_200(wrapper: str) -> None:
    """The same words in an error under a 200 may have cost too, where it is taken for an error."""
    documents = {phrase: json.loads(WRAPPERS[wrapper](phrase)) for phrase in PHRASES}
    judged = {
        phrase: judge_error_document(document, NONE, 200) for phrase, document in documents.items()
    }
    assert not [phrase for phrase, one in judged.items() if one and one.charge is Charge.NO]
