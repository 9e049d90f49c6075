"""Goal: a scope gives what it says and never more, also beside others, in both of SMART's versions.

Method: tables of scopes; and for any mixture of scopes, the rights that come out are compared with what each scope
gives by itself.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.core.vocabulary import ALL_CATEGORIES, Action, Category, Sensitivity, mask
from carechain.gateway.principal import Rights
from carechain.gateway.rights import rights_of, within
from carechain.gateway.smart import scopes as smart


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("patient/Observation.rs", "rs"),
        ("patient/Observation.cruds", "crus"),
        ("user/*.c", "c"),
        ("system/Patient.read", "rs"),
        ("system/Patient.write", "cu"),
        ("patient/*.*", "crus"),
        ("patient/Observation.rs?category=laboratory", "rs"),
        ("patient/Observation.rs?category=a&code=http://loinc.org|1-2", "rs"),
        ("patient/Observation.cruds?category=laboratory", "rs"),
        ("patient/Observation.r?_security=N", "r"),
    ],
)
def test_what_is_understood(text: str, letters: str) -> None:
    found = smart.parse(text)
    assert found is not None
    assert found.letters == letters


@pytest.mark.parametrize(
    "text",
    [
        "",
        "openid",
        "patient/Observation",
        "patient/Observation.",
        "patient/Observation.sr",
        "patient/Observation.rr",
        "patient/Observation.d",
        "patient/Observation.x",
        "patient/observation.rs",
        "patient/Nothing.rs",
        "practitioner/Observation.rs",
        "PATIENT/Observation.rs",
        "patient/Observation.rs ",
        "patient/Observation.rs?",
        "patient/Observation.rs?category",
        "patient/Observation.rs?category=",
        "patient/Observation.rs?subject.name=x",
        "patient/Observation.rs?_has:x=1",
        "patient/Observation.rs?_include=*",
        "patient/Observation.rs?_count=1",
        "patient/Observation.rs?_id=1",
        "patient/Observation.c?category=x",
        "patient/Observation.rs?" + "&".join(f"a={n}" for n in range(20)),
    ],
)
def test_what_is_dropped(text: str) -> None:
    assert smart.parse(text) is None


def test_only_what_is_registered_is_allowed() -> None:
    registered = ("patient/Observation.rs", "patient/Condition.rs?category=a", "openid", "patient/Patient.read")
    asked = (
        "openid offline_access patient/Observation.r patient/Observation.rs?category=x patient/Observation.cruds "
        "patient/Condition.rs patient/Condition.r?category=a patient/Patient.rs user/Observation.rs patient/*.rs"
    )
    assert smart.allowed(asked.split(), registered) == (
        "openid",
        "patient/Observation.r",
        "patient/Observation.rs?category=x",
        "patient/Condition.r?category=a",
        "patient/Patient.rs",
    )


def test_filters_never_let_more_through() -> None:
    def rights(*texts: str) -> Rights | None:
        return smart.rights_of(smart.of_kind(texts, "patient")).get("Observation")

    lab, vital = "patient/Observation.rs?category=lab", "patient/Observation.rs?category=vital"
    assert rights(lab) == Rights(read=True, search=True, filters=("category=lab",))
    assert rights(lab, vital) == Rights(read=True, search=True, filters=("category=lab", "category=vital"))
    assert rights(lab, "patient/Observation.rs") == Rights(read=True, search=True)
    assert rights(lab, "patient/Observation.c") == Rights(
        read=True, search=True, create=True, filters=("category=lab",)
    )
    assert rights("patient/Observation.r?category=lab") == Rights(read=True, filters=("category=lab",))
    # What may only be searched must not be read, and the other way about: such a pair gives neither.
    assert rights("patient/Observation.r?category=lab", "patient/Observation.s?category=vital") is None
    assert rights(lab, "patient/*.rs") == Rights(read=True, search=True)


SCOPES = st.builds(
    smart.ResourceScope,
    st.just("patient"),
    st.sampled_from(["*", "Observation", "Condition"]),
    st.sampled_from(["r", "s", "rs", "c", "cu", "crus"]),
    st.just(""),
) | st.builds(
    smart.ResourceScope,
    st.just("patient"),
    st.sampled_from(["*", "Observation", "Condition"]),
    st.sampled_from(["r", "s", "rs"]),
    st.sampled_from(["category=a", "category=b"]),
)


def lets(scopes: list[smart.ResourceScope], name: str, letter: str, query: str) -> bool:
    """Whether one of the scopes by itself lets this letter for a resource that matches ``query`` alone."""
    return any(
        one.resource_type in (name, "*") and letter in one.letters and one.query in ("", query) for one in scopes
    )


@given(st.lists(SCOPES, max_size=6))
def test_scopes_together_give_no_more_than_each_by_itself(scopes: list[smart.ResourceScope]) -> None:
    rights = smart.rights_of(scopes)
    for name in ("Observation", "Condition", "Patient"):
        found = rights.get(name) or rights.get("*") or Rights()
        for query in ("category=a", "category=b", "category=c"):
            shown = not found.filters or query in found.filters
            assert not (found.read and shown) or lets(scopes, name, "r", query)
            assert not (found.search and shown) or lets(scopes, name, "s", query)
        assert not found.create or lets(scopes, name, "c", "")
        assert not found.update or lets(scopes, name, "u", "")


@pytest.mark.parametrize(
    ("texts", "categories"),
    [
        (["patient/*.rs"], ALL_CATEGORIES),
        (["patient/Patient.rs"], mask(Category.DEMOGRAPHICS)),
        (["patient/Encounter.rs"], mask(Category.ENCOUNTER)),
        (["patient/Observation.rs"], mask(Category.RESULT, Category.ENCOUNTER, Category.PATIENT_REPORTED)),
        (["patient/Coverage.rs"], mask(Category.CLAIM)),
        (["patient/Organization.rs"], 0),
    ],
)
def test_a_grant_names_the_categories_in_which_the_types_stand(texts: list[str], categories: int) -> None:
    assert smart.categories_of(smart.of_kind(texts, "patient")) == categories
    scope = smart.grant_scope(smart.of_kind(texts, "patient"))
    assert (scope is None) == (categories == 0)
    assert scope is None or scope.ceiling is Sensitivity.N


def test_a_grant_permits_what_the_letters_say() -> None:
    def actions(*texts: str) -> int:
        return smart.actions_of(smart.of_kind(texts, "patient"))

    assert actions("patient/*.rs") == int(Action.READ)
    assert actions("patient/*.rs", "patient/Observation.c") == int(Action.READ | Action.SUBMIT)
    assert actions("patient/Observation.cu") == int(Action.READ | Action.SUBMIT | Action.WRITE)


def test_rights_of_an_app_end_where_its_roles_end() -> None:
    wide = smart.rights_of(smart.of_kind(["patient/*.cruds"], "patient"))
    for roles in range(1 << 12):
        if roles.bit_count() > 1:
            continue
        outer = rights_of(roles)
        both = within(wide, outer)
        assert both == {name: one for name, one in outer.items() if one != Rights()}
        assert "*" not in both


def test_too_much_text_is_no_scope() -> None:
    assert smart.split("patient/*.rs " * 1000) == ()
    assert smart.split(" ".join(f"a{n}" for n in range(200))) == ()
    assert smart.split("a b a") == ("a", "b")


def test_wishes_are_told_in_words() -> None:
    told = list(smart.in_words(["patient/*.rs", "patient/Observation.cu?x=1", "offline_access", "launch"]))
    assert told[0] == "read: everything"
    assert "stay allowed until you end it" in told
