"""The protocol, told as short stories. Names of sections refer to the papers cited in the code."""

from __future__ import annotations

import pytest

from mpaxos.core import messages as m
from mpaxos.core import output as o
from mpaxos.core.acceptor import Acceptor
from mpaxos.core.invariant import InvariantViolated
from mpaxos.core.settings import SECOND, Settings
from mpaxos.core.turn import Turn
from mpaxos.core.types import Ballot, Mark, Record, Value, majority
from tests.unit.core_world import NOOP, FakeBatch, FakeLog, World, ballot


def value(digest: int) -> Value:
    return Value(FakeBatch(digest), 7)


# ------------------------------------------------------------------ the acceptor's two rules


@pytest.mark.parametrize("promised", ["1.0", "2.1", "3.2"])
@pytest.mark.parametrize("asked", ["1.0", "1.2", "2.0", "2.1", "2.2", "4.0"])
def test_promise_only_above_and_accept_only_from_the_promise_on(promised: str, asked: str) -> None:
    log = FakeLog()
    log.promised = ballot(promised)
    for rule in ("promise", "accept"):
        acceptor = Acceptor(Settings(replica=0, replicas=3), log.recovered(), log)
        turn = Turn(0, (1, 2))
        if rule == "promise":
            allowed = ballot(asked) > ballot(promised)
            assert acceptor.promise(turn, ballot(asked)) == allowed
        else:
            allowed = ballot(asked) >= ballot(promised)
            assert acceptor.accept(turn, ballot(asked), 1, value(5)) == allowed
            assert (acceptor.record(1) is not None) == allowed
        assert acceptor.promised == max(
            ballot(promised), ballot(asked) if allowed else ballot("0.0")
        )
        assert bool(turn.output.writes) == allowed


def test_an_accept_above_the_promise_writes_the_promise_first() -> None:
    log = FakeLog()
    acceptor = Acceptor(Settings(replica=0, replicas=3), log.recovered(), log)
    turn = Turn(0, (1, 2))
    assert acceptor.accept(turn, Ballot(4, 1), 1, value(5))
    kinds = [type(write) for write in turn.output.writes]
    assert kinds == [o.WritePromise, o.WriteRecord]


def test_no_room_in_the_log_means_no_vote() -> None:
    log = FakeLog()
    acceptor = Acceptor(Settings(replica=0, replicas=3), log.recovered(), log)
    acceptor.room = 150
    turn = Turn(0, (1, 2))
    assert not acceptor.accept(turn, Ballot(1, 1), 1, value(5))
    assert not turn.output.writes


def test_what_was_settled_this_turn_is_not_read_from_the_log_too_early() -> None:
    """The log still holds an older, other value of the slot while the turn's writes wait."""
    log = FakeLog()
    log.records[1] = Record(1, Ballot(1, 1), value(111))
    acceptor = Acceptor(Settings(replica=0, replicas=3), log.recovered(), log)
    turn = Turn(0, (1, 2))
    acceptor.accept(turn, Ballot(2, 2), 1, value(222))
    acceptor.settle(1)
    record = acceptor.record(1)
    assert record is not None and record.value.batch.digest == 222
    log.write(turn.output.writes)
    acceptor.begin_turn()
    record = acceptor.record(1)
    assert record is not None and record.value.batch.digest == 222


# ------------------------------------------------------------------ deciding


def test_majority() -> None:
    assert [majority(n) for n in (1, 2, 3, 4, 5, 7)] == [1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("n", [1, 3, 5, 7])
def test_what_is_proposed_is_decided_everywhere_in_order(n: int) -> None:
    world = World(n)
    leader = world.elect()
    for k in range(1, 20):
        world.put(leader, k)
    world.run(100)
    for decided in world.decided:
        assert decided == [(k, k) for k in range(1, 20)]


def test_followers_forward_and_a_new_leader_gets_what_the_old_one_lost() -> None:
    world = World(3)
    leader = world.elect()
    follower = (leader + 1) % 3
    world.put(follower, 77)
    assert len(world.take(m.Forward)) == 1  # lost
    world.kill(leader)
    world.elect()
    world.settle()
    assert [d for _, d in world.decided[follower]] == [77]


def test_votes_of_an_older_ballot_do_not_count_in_a_newer_one() -> None:
    """Shows only with five replicas: two votes of ballot 1 and one of ballot 2 are no majority."""
    world = World(5)
    world.elect()
    top = max(log.promised for log in world.logs)
    old, new = Ballot(top.round + 1, 3), Ballot(top.round + 2, 4)
    world.take()
    world.tell(0, 3, m.Accept(old, 1, 0, [value(10)]))  # votes of 3 and 0 in the old ballot
    world.tell(0, 4, m.Accept(new, 1, 0, [value(20)]))  # votes of 4 and 0 in the new one
    world.tell(0, 1, m.Accepted(old, [1], 0))  # a late third vote for the old one
    assert world.decided[0] == []
    world.tell(0, 1, m.Accepted(new, [1], 0))
    assert world.decided[0] == [(1, 20)]


def test_leader_says_holds_only_for_what_was_accepted_in_its_own_ballot() -> None:
    world = World(5)
    world.elect()
    top = max(log.promised for log in world.logs)
    old, new = Ballot(top.round + 1, 3), Ballot(top.round + 2, 4)
    world.tell(0, 3, m.Accept(old, 1, 0, [value(10)]))
    world.tell(0, 4, m.Heartbeat(new, 1, 1, 0, Mark(0, 0)))  # slot 1 is decided, but as what?
    assert world.decided[0] == []
    assert any(isinstance(e.message, m.CatchupRequest) for _, e in world.wire)


def test_an_early_accept_is_no_vote_and_tells_nothing_of_what_is_decided() -> None:
    world = World(3, early_accepts=True)
    leader = world.elect()
    world.put(leader, 5)
    world.settle()
    world.put(leader, 6)
    early = [e.message for e in world.outputs[leader].early if isinstance(e.message, m.Accept)]
    assert [(a.slot, a.decided_upto, a.vote) for a in early] == 2 * [(2, 0, False)]
    follower = (leader + 1) % 3
    world.deliver(world.take(m.Accept, to=follower))
    assert [d for _, d in world.decided[follower]] == [5]
    world.deliver(world.take(m.Accepted, to=follower))  # the leader's own vote, durable by now
    assert [d for _, d in world.decided[follower]] == [5, 6]


def test_an_accept_that_is_sent_again_is_a_vote() -> None:
    """The record was durable long ago; whoever missed the vote needs no other message."""
    world = World(3, early_accepts=True)
    leader = world.elect()
    world.put(leader, 5)
    world.take()
    world.run(250)
    follower = (leader + 1) % 3
    world.deliver(world.take(m.Accept, to=follower))
    assert [d for _, d in world.decided[follower]] == [5]


def test_three_replicas_send_votes_to_the_leader_only() -> None:
    world = World(3)
    leader = world.elect()
    world.put(leader, 5)
    world.deliver(world.take(m.Accept))
    assert {e.to for _, e in world.take(m.Accepted)} == {leader}
    followers = [i for i in range(3) if i != leader]
    assert all(world.decided[i] == [(1, 5)] for i in followers)  # by the leader's and their own


# ------------------------------------------------------------------ election


def test_a_killed_leader_is_replaced_fast_a_silent_one_after_the_timeout() -> None:
    world = World(3)
    leader = world.elect()
    world.kill(leader)
    start = world.now
    world.elect()
    assert world.now - start <= world.replicas[0].settings.down_spread


def test_a_follower_that_hears_the_leader_grants_no_pre_vote() -> None:
    world = World(3)
    leader = world.elect()
    follower, other = (leader + 1) % 3, (leader + 2) % 3
    world.take()
    asked = Ballot(99, other)
    for voter in (leader, follower):
        world.tell(voter, other, m.PreVote(asked, 0))
    replies = [e.message for _, e in world.take(m.PreVoteReply)]
    assert [reply.granted for reply in replies if isinstance(reply, m.PreVoteReply)] == [False] * 2


def test_a_candidate_that_misses_much_is_not_granted() -> None:
    world = World(3, window=4)
    leader = world.elect()
    behind = (leader + 1) % 3
    world.dead.add(behind)
    for k in range(1, 30):
        world.put(leader, k)
        world.run(1)
    world.dead.discard(behind)
    voter = (leader + 2) % 3
    world.step(voter, o.PeerDown(leader))
    world.tell(voter, behind, m.PreVote(Ballot(99, behind), 0))
    (_, reply), *_ = world.take(m.PreVoteReply)
    assert isinstance(reply.message, m.PreVoteReply)
    assert not reply.message.granted and reply.message.decided_upto == 29


def test_a_leader_that_hears_no_majority_steps_down() -> None:
    world = World(5)
    leader = world.elect()
    for i in range(5):
        if i != leader and len(world.dead) < 3:
            world.dead.add(i)
    world.run(2000)
    assert not world.replicas[leader].is_leader


def test_a_restarted_leader_does_not_resume_its_ballot() -> None:
    world = World(3)
    leader = world.elect()
    held = world.logs[leader].promised
    world.kill(leader)
    world.restart(leader)
    assert not world.replicas[leader].is_leader
    new = world.elect()
    assert world.logs[new].promised > held


@pytest.mark.parametrize("candidate", [0, 1])
def test_takeover_reproposes_the_highest_ballot_and_fills_holes(candidate: int) -> None:
    """Lamport 2001, section 3."""
    world = World(3)
    world.elect()
    base = max(log.promised for log in world.logs).round
    a, b = Ballot(base + 1, 1), Ballot(base + 2, 2)
    for i in range(3):
        world.take()
        world.logs[i].promised = b
    world.logs[0].records = {1: Record(1, a, value(10)), 4: Record(4, a, value(40))}
    world.logs[1].records = {1: Record(1, b, value(11))}
    world.dead = {2}
    for i in (0, 1):
        world.restart(i)
    world.tell(candidate, 1 - candidate, m.TakeOver(world.logs[candidate].promised))
    world.settle()
    assert world.replicas[candidate].is_leader
    world.run(300)
    assert world.decided[0][:4] == [(1, 11), (2, 0), (3, 0), (4, 40)]
    assert world.decided[1][:4] == world.decided[0][:4]
    assert NOOP.digest == 0


def test_a_candidate_behind_a_truncated_log_gives_up_and_catches_up() -> None:
    world = World(3)
    leader = world.elect()
    candidate, promiser = (leader + 1) % 3, (leader + 2) % 3
    world.dead = {leader}
    world.step(candidate, o.PeerDown(leader))
    world.take()
    election = world.replicas[candidate]._election
    election.prepare(Turn(world.now, ()))
    world.tell(candidate, promiser, m.Promise(election.ballot, 1, 50, 20, [], []))
    assert not world.replicas[candidate].is_leader
    assert world.replicas[candidate].known_upto == 50
    assert any(isinstance(e.message, m.CatchupRequest) for _, e in world.wire)


def test_leadership_is_handed_over_on_request() -> None:
    world = World(3)
    leader = world.elect()
    world.put(leader, 1)
    world.run(100)
    world.step(leader, o.Resign())
    world.settle()
    assert world.elect() != leader


# ------------------------------------------------------------------ catch-up and truncation


def test_a_replica_that_works_off_what_piled_up_asks_once() -> None:
    """Thawed, it hears of all it missed at once, and slot after slot comes from the backlog."""
    world = World(3)
    leader = world.elect()
    frozen = (leader + 1) % 3
    backlog: list[tuple[int, m.Envelope]] = []
    for number in range(1, 21):
        world.put(leader, number)
        backlog += world.take(m.Accept, to=frozen)
        world.take(to=frozen)
        world.settle()
    newest = world.replicas[leader].ballot
    world.tell(frozen, leader, m.Heartbeat(newest, 1, 20, 0, Mark(0, 0)))
    assert len(world.take(m.CatchupRequest)) == 1
    world.deliver(backlog[:-1])
    assert world.replicas[frozen].decided_upto == 19
    assert not world.take(m.CatchupRequest)
    # No answer: another one is asked, for what is still missing.
    world.now += world.replicas[frozen].settings.retry
    world.step(frozen)
    [(_, again)] = world.take(m.CatchupRequest)
    assert again.message == m.CatchupRequest(20, 20)


@pytest.mark.parametrize("n", [3, 5])
def test_a_replica_that_was_away_catches_up_from_the_logs_of_others(n: int) -> None:
    world = World(n)
    leader = world.elect()
    away = (leader + 1) % n
    world.kill(away)
    for k in range(1, 200):
        world.put(leader, k)
        world.run(1)
    assert max(log.truncated_upto for log in world.logs) == 0  # kept for the one that is away
    world.restart(away)
    world.run(300)
    assert world.decided[away] == [(k, k) for k in range(1, 200)]
    assert all(log.truncated_upto == 199 for log in world.logs)


def test_under_pressure_the_log_is_truncated_although_a_replica_is_away() -> None:
    world = World(3)
    leader = world.elect()
    world.kill((leader + 1) % 3)
    world.put(leader, 1)
    world.run(100)
    assert world.logs[leader].truncated_upto == 0
    world.step(leader, o.LogRoom(1000))
    assert world.logs[leader].truncated_upto == 1


def test_a_replica_too_far_behind_says_so() -> None:
    world = World(3)
    leader = world.elect()
    behind = world.replicas[(leader + 1) % 3]
    others = [i for i in range(3) if i != behind.settings.replica]
    behind._learner.heard_of(100)
    for other in others:
        assert not behind.too_far_behind
        world.tell(behind.settings.replica, other, m.CatchupReply(1, 50, 100, [], []))
    assert behind.too_far_behind


def test_a_slow_machine_bounds_how_far_the_protocol_runs_ahead() -> None:
    world = World(3, max_apply_lag=8, window=4)
    leader = world.elect()
    follower = (leader + 1) % 3
    slow = world.replicas[follower]
    output = o.Output()
    for slot in range(1, 40):
        accept = m.Accept(world.logs[leader].promised, slot, slot - 1, [value(slot)])
        output = slow.step(world.now, [o.Received(leader, accept)])
        world.logs[follower].write(output.writes)
    assert slow.decided_upto == 8  # nothing was applied
    assert max(world.logs[follower].records) <= 8 + slow.settings.horizon


# ------------------------------------------------------------------ reads


def test_a_read_index_covers_slots_that_a_follower_may_have_answered_already() -> None:
    world = World(3)
    leader = world.elect()
    world.put(leader, 5)
    world.deliver(world.take(m.Accept))  # followers know slot 1 is decided, the leader does not
    world.take(m.Accepted)
    assert world.replicas[leader].decided_upto == 0
    world.step(leader, o.LocalReads(FakeBatch(500)))
    world.deliver(world.take(m.Heartbeat))
    world.deliver(world.take(m.HeartbeatReply))
    assert world.reads[leader] == [(500, 1)]


def test_no_read_without_a_majority() -> None:
    world = World(5)
    leader = world.elect()
    world.run(100)
    world.take()
    world.step(leader, o.LocalReads(FakeBatch(500)))
    beats = world.take(m.Heartbeat)
    world.deliver(beats[:1])
    world.deliver(world.take(m.HeartbeatReply))
    assert world.reads[leader] == []
    world.deliver(beats[1:2])
    world.deliver(world.take(m.HeartbeatReply))
    assert len(world.reads[leader]) == 1


def test_an_answer_to_an_older_heartbeat_confirms_no_newer_read() -> None:
    world = World(3)
    leader = world.elect()
    world.run(100)
    world.now += 60_000_000
    world.step(leader)
    old = world.take(m.Heartbeat)
    world.deliver(old)
    late = world.take(m.HeartbeatReply)
    world.step(leader, o.LocalReads(FakeBatch(500)))
    world.deliver(late)
    assert world.reads[leader] == []


def test_nobody_confirms_a_read_of_a_deposed_leader() -> None:
    world = World(5)
    old = world.elect()
    world.run(100)
    world.take()
    others = [i for i in range(5) if i != old]
    world.step(old, o.LocalReads(FakeBatch(500)))
    beats = world.take(m.Heartbeat)
    for i in others:  # they promise a higher ballot before the heartbeat reaches them
        world.tell(i, others[0], m.Prepare(Ballot(9, others[0]), 1))
    world.take()
    world.deliver(beats)
    assert world.take(m.HeartbeatReply) == []
    rejects = world.take(m.Reject)
    assert [sender for sender, _ in rejects] == others
    world.deliver(rejects)
    assert world.reads[old] == []
    assert not world.replicas[old].is_leader


def test_reads_at_a_follower_survive_a_lost_question_and_a_new_leader() -> None:
    world = World(3)
    leader = world.elect()
    follower = (leader + 1) % 3
    world.step(follower, o.LocalReads(FakeBatch(500)))
    world.take(m.ReadIndexRequest)
    world.kill(leader)
    world.elect()
    world.run(500)
    assert [digest for digest, _ in world.reads[follower]] == [500]


# ------------------------------------------------------------------ digests


def test_a_replica_whose_state_differs_from_the_majority_stops() -> None:
    world = World(3)
    leader = world.elect()
    good, bad = (leader + 1) % 3, (leader + 2) % 3
    for i in range(3):
        world.replicas[i]._marks.applied([Mark(32, 666 if i == bad else 1)])
    world.run(60)
    world.replicas[good].step(world.now, [])
    with pytest.raises(InvariantViolated, match=r"differs from the majority's at slot 32"):
        world.run(60)


def test_a_leader_that_differs_from_all_others_stops() -> None:
    world = World(3)
    leader = world.elect()
    for i in range(3):
        world.replicas[i]._marks.applied([Mark(32, 666 if i == leader else 1)])
    with pytest.raises(InvariantViolated, match="no majority agrees"):
        world.run(1200)


def test_clients_hear_that_there_is_no_quorum() -> None:
    world = World(3)
    leader = world.elect()
    for i in range(3):
        if i != leader:
            world.dead.add(i)
    assert world.step(leader).quorum
    world.run(4000)
    assert not world.outputs[leader].quorum
    assert world.replicas[leader].settings.quorum_grace == 2 * SECOND
