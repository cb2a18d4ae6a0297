"""Keys from a file: who may do what, how they change while the dispatcher runs, and what is wrong with a file."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from dispatcher.keys import Caller, KeyRing, KeysInvalid, Role, key_hash, read_keys
from dispatcher.settings import DispatcherSettings
from dispatcher.shares import Shares
from tests.support.clock import FakeClock
from tests.support.fake_stores import FakeStores


def summed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def a_file(path: Path, tenants: dict[str, Sequence[str]], more: str = "", operators: Sequence[str] = ()) -> Path:
    """A keys file; ``more`` goes to the last tenant."""
    blocks = [f"[[tenant]]\nname = '{name}'\nkeys = {[summed(key) for key in keys]}" for name, keys in tenants.items()]
    blocks += [more, *(f"[[operator]]\nname = '{name}'\nkeys = ['{summed(name)}']" for name in operators)]
    path.write_text("\n".join(blocks))
    return path


def test_a_key_is_known_by_its_sum_alone(tmp_path: Path):
    ring = KeyRing([key_hash("root")], a_file(tmp_path / "k", {"acme": ["a1", "a2"]}, operators=["ops"]))

    assert ring.find("a1") == ring.find("a2").__class__("acme", Role.TENANT, summed("a1")[:8])
    assert [found and (found.name, found.role) for found in map(ring.find, ["a2", "ops", "root", "a3", ""])] == [
        ("acme", Role.TENANT),
        ("ops", Role.OPERATOR),
        ("", Role.OPERATOR),
        None,
        None,
    ]


def test_neither_keys_nor_sums_as_others_know_them_are_what_is_looked_up(tmp_path: Path):
    ring = KeyRing([], a_file(tmp_path / "k", {"acme": ["the key of acme"]}))

    assert key_hash("the key of acme") not in ring._known
    assert "the key of acme" not in repr(vars(ring))


def test_only_tenants_have_a_tenant():
    assert Caller("acme", Role.TENANT).tenant == "acme"
    assert Caller("ops", Role.OPERATOR).tenant == ""


def test_a_file_without_keys_shuts_everybody_out(tmp_path: Path):
    (tmp_path / "k").write_text("")
    ring = KeyRing([], tmp_path / "k")

    assert ring.asked_for
    assert ring.find("") is None
    assert not KeyRing([]).asked_for


async def test_a_key_is_changed_without_a_restart_and_both_open_in_between(tmp_path: Path):
    path = a_file(tmp_path / "k", {"acme": ["old"]})
    ring = KeyRing([], path)

    a_file(path, {"acme": ["old", "new"]})
    await ring.look()
    assert ring.find("old")
    assert ring.find("new")

    a_file(path, {"acme": ["new"]})
    await ring.look()
    assert ring.find("old") is None
    assert ring.find("new")


async def test_a_file_that_is_replaced_by_a_link_to_another_is_read_again(tmp_path: Path):
    one, two = a_file(tmp_path / "1", {"acme": ["k1"]}), a_file(tmp_path / "2", {"acme": ["k2"]})
    link, turned = tmp_path / "link", tmp_path / "turned"
    link.symlink_to(one)
    ring = KeyRing([], link)

    turned.symlink_to(two)
    turned.replace(link)
    await ring.look()

    assert ring.find("k2")
    assert ring.find("k1") is None


@pytest.mark.parametrize("damage", ["[[tenant", None])
async def test_a_file_that_has_become_bad_or_gone_changes_nothing_and_is_told_of_once(
    tmp_path: Path, damage: str | None, capsys: pytest.CaptureFixture[str]
):
    path = a_file(tmp_path / "k", {"acme": ["a1"]})
    ring = KeyRing([], path)
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage)

    await ring.look()
    await ring.look()

    assert ring.find("a1")
    assert capsys.readouterr().out.count("keys.unreadable") == 1
    a_file(path, {"acme": ["a2"]})
    await ring.look()
    assert ring.find("a2")


def test_a_tenants_rate_is_a_burst_and_then_so_many_a_second(tmp_path: Path):
    ring = KeyRing([], a_file(tmp_path / "k", {"acme": ["a1"]}, "requests_per_s = 2\nburst = 3"))
    caller = ring.find("a1")
    assert caller

    assert [ring.wait_s(caller, 100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert ring.wait_s(caller, 100.0) == pytest.approx(0.5)
    assert ring.wait_s(caller, 100.5) == 0.0
    assert ring.wait_s(caller, 100.5) > 0.0
    assert [ring.wait_s(caller, 1000.0) for _ in range(4)][-1] > 0.0


async def test_a_new_key_does_not_give_a_tenant_its_burst_anew(tmp_path: Path):
    path = a_file(tmp_path / "k", {"acme": ["a1"]}, "requests_per_s = 1\nburst = 1")
    ring = KeyRing([], path)
    assert ring.wait_s(Caller("acme", Role.TENANT), 5.0) == 0.0

    a_file(path, {"acme": ["a1", "a2"]}, "requests_per_s = 1\nburst = 1")
    await ring.look()

    assert ring.wait_s(Caller("acme", Role.TENANT), 5.0) > 0.0


def test_who_has_no_rate_asks_as_often_as_it_likes(tmp_path: Path):
    ring = KeyRing([], a_file(tmp_path / "k", {"acme": ["a1"]}, operators=["ops"]))

    for caller in (Caller("acme", Role.TENANT), Caller("ops", Role.OPERATOR)):
        assert {ring.wait_s(caller, 0.0) for _ in range(1000)} == {0.0}


def test_a_tenants_own_bound_replaces_the_setting(tmp_path: Path):
    ring = KeyRing([], a_file(tmp_path / "k", {"other": ["b"], "acme": ["a1"]}, "max_queued = 7"))

    assert (ring.max_queued("acme", 100), ring.max_queued("other", 100), ring.max_queued("new", 100)) == (7, 100, 100)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[tenant", "is not TOML"),
        ("[[tenant]]\nname = 'a'", r"tenant\.0\.keys: Field required"),
        ("[[tenant]]\nname = 'a b'\nkeys = []", r"tenant\.0\.name"),
        ("[[tenant]]\nname = 'a:b'\nkeys = []", r"tenant\.0\.name"),
        ("[[tenant]]\nname = 'a'\nkeys = ['secret-in-the-clear']", r"tenant\.0\.keys\.0"),
        ("[[tenant]]\nname = 'a'\nkeys = []\nmax_queued = 0", r"max_queued"),
        ("[[tenant]]\nname = 'a'\nkeys = []\nrequests_per_s = -1", r"requests_per_s"),
        ("[[tenant]]\nname = 'a'\nkeys = []\nshare = 0", r"share"),
        ("[[tenant]]\nname = 'a'\nkeys = []\nshare = nan", r"share"),
        ("[[tenant]]\nname = 'a'\nkeys = []\nweight = 2", r"tenant\.0\.weight: Extra inputs"),
        ("[[tenant]]\nname = 'a'\nkeys = []\n[[operator]]\nname = 'a'\nkeys = []", "has a name twice: a"),
        (f"[[tenant]]\nname = 'a'\nkeys = ['{summed('x')}', '{summed('x')}']", f"has a key twice: {summed('x')[:8]}$"),
        ("admins = []", "admins: Extra inputs"),
    ],
)
def test_a_bad_file_is_refused_and_the_complaint_quotes_nothing_of_it(tmp_path: Path, text: str, complaint: str):
    (tmp_path / "k").write_text(text)

    with pytest.raises(KeysInvalid, match=complaint) as refusal:
        read_keys(tmp_path / "k")
    assert "secret-in-the-clear" not in str(refusal.value)


def test_a_bad_file_is_a_bad_setting(tmp_path: Path):
    (tmp_path / "k").write_text("[[tenant")

    with pytest.raises(ValueError, match="is not TOML"):
        DispatcherSettings(affinity_api_keys_file=tmp_path / "k")


async def test_shares_are_told_to_the_store_again_and_again_and_taken_back(tmp_path: Path):
    path = a_file(tmp_path / "k", {"other": ["b"], "acme": ["a1"]}, "share = 2.5")
    ring, stores = KeyRing([], path), FakeStores(FakeClock())
    shares = Shares(ring, stores.jobs)
    assert ring.shares == {"acme": 2.5}

    for _ in range(2):
        await shares.tell()
        assert stores.jobs._shares == {"acme": 2.5}
        await stores.jobs.set_shares({})  # Redis was emptied.

    await shares.tell()
    a_file(path, {"other": ["b"], "acme": ["a1"]})
    ring.reload()
    await shares.tell()
    assert stores.jobs._shares == {}


async def test_where_no_tenant_has_a_share_nothing_is_told_but_once(tmp_path: Path):
    shares = Shares(KeyRing([], a_file(tmp_path / "k", {"acme": ["a1"]})), stores := FakeStores(FakeClock()).jobs)
    await shares.tell()
    await stores.set_shares({"acme": 9.0})  # Whatever is there now, nobody asked for a change.
    await shares.tell()
    assert stores._shares == {"acme": 9.0}
