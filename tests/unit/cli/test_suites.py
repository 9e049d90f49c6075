"""Goal: the commands make keys that the network takes, and say so before the ledger has to refuse (KEY-6).

Method: homes on a temporary disk, founded with either suite through the functions behind ``init``, ``consortium`` and
``keys new``; no node runs.
"""

from pathlib import Path

import pytest

from carechain.cli.homes import make_applicant, make_organisation_home
from carechain.cli.keyring import Keyring
from carechain.cli.network import found_consortium, home_genesis, read_application, signing_suite
from carechain.cli.output import CannotRun
from carechain.contracts.validators import Rotation
from carechain.core.certificate import read_authority
from carechain.core.crypto import Suite
from carechain.core.suite import Institution
from carechain.core.vocabulary import OrganisationKind

PASSWORD = "口令 password"


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text(PASSWORD, encoding="utf-8")
    return path


def make(home: Path, password: Path, *, genesis: Path | None = None, suite: Institution | None = None) -> None:
    make_organisation_home(
        home,
        name="协和医院",
        kind=OrganisationKind.HOSPITAL,
        registrar=True,
        chain_id="test",
        genesis=genesis,
        suite=suite,
        password_file=password,
    )


@pytest.mark.parametrize("suite", [None, *Institution])
def test_a_home_is_founded_with_a_suite_and_who_joins_follows_it(
    tmp_path: Path, password: Path, suite: Institution | None
) -> None:
    chosen = suite or Institution.INTERNATIONAL
    make(tmp_path / "a", password, suite=suite)
    make(tmp_path / "b", password, genesis=tmp_path / "a" / "genesis.json")
    network = home_genesis(tmp_path / "a")
    assert network.suite is chosen
    assert network.members[0].suite == chosen.signature
    assert read_authority(network.members[0].authority).suite is chosen.signature
    for home in (tmp_path / "a", tmp_path / "b"):
        assert Keyring(home).identity("member", PASSWORD).suite is chosen.signature
        assert Keyring(home).authority(PASSWORD).suite is chosen.signature
    other = Institution.SM if chosen is Institution.INTERNATIONAL else Institution.INTERNATIONAL
    with pytest.raises(CannotRun, match="leave --suite away"):
        make(tmp_path / "c", password, genesis=tmp_path / "a" / "genesis.json", suite=other)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("suite", list(Institution))
def test_new_keys_are_of_the_networks_suite_unless_another_is_named_that_it_takes(
    tmp_path: Path, password: Path, suite: Institution
) -> None:
    home = tmp_path / "home"
    assert signing_suite(home, None, of_patient=False) is Suite.ED25519
    assert signing_suite(home, Suite.SM2, of_patient=False) is Suite.SM2
    make(home, password, suite=suite)
    for of_patient in (False, True):
        assert signing_suite(home, None, of_patient=of_patient) is suite.signature
        for wanted in Suite:
            if suite.admits_patient(wanted) if of_patient else suite.admits(wanted):
                assert signing_suite(home, wanted, of_patient=of_patient) is wanted
            else:
                with pytest.raises(CannotRun, match=suite.name.lower()):
                    signing_suite(home, wanted, of_patient=of_patient)


def test_a_consortium_has_the_suite_of_its_founders_who_must_have_one(tmp_path: Path, password: Path) -> None:
    made = {
        suite: [
            make_applicant(
                tmp_path / f"{suite.name} {number}",
                name=f"医院 {number}",
                kind=OrganisationKind.HOSPITAL,
                registrar=True,
                password_file=password,
                institution=suite,
            )
            for number in (1, 2)
        ]
        for suite in Institution
    }
    founders = {suite: [read_application(one.application) for one in made[suite] if one.application] for suite in made}
    for suite, both in founders.items():
        network = found_consortium("test", both, seats={both[0].member}, rotation=Rotation())
        assert network.suite is suite
    mixed = [founders[Institution.SM][0], founders[Institution.INTERNATIONAL][0]]
    for applications in (mixed, mixed[::-1]):
        with pytest.raises(CannotRun, match="signature suite"):
            found_consortium("test", applications, seats={mixed[0].member}, rotation=Rotation())
