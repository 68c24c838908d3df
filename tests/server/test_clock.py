import random

import pytest

from server.media.clock import BackwardTime, SessionClock, Stamp

pytestmark = pytest.mark.unit

S = 1_000_000


def test_the_first_chunk_is_zero_and_tracks_share_the_clock() -> None:
    clock = SessionClock(lossless=False)
    assert clock.newest_ms == -1
    assert clock.capture(0, 50 * S, now=7.0) == Stamp(0)
    assert clock.capture(1, 50 * S + 20_000, now=7.1) == Stamp(20)
    assert clock.capture(2, 50 * S - 100_000, now=7.1) == Stamp(0), "a track that began a little earlier"
    assert clock.capture(0, 51 * S, now=9.9) == Stamp(1000), "arrival does not stamp"
    assert clock.newest_ms == 1000
    assert clock.origin_us == 50 * S


def test_capture_times_of_a_track_do_not_go_back() -> None:
    clock = SessionClock(lossless=False)
    clock.capture(0, 10 * S, now=0.0)
    clock.capture(0, 12 * S, now=2.0)
    with pytest.raises(BackwardTime):
        clock.capture(0, 11 * S, now=2.1)
    assert clock.capture(1, 11 * S, now=2.1) == Stamp(1000), "another track has its own order"
    assert clock.capture(0, 12 * S, now=2.1) == Stamp(2000)


def test_a_gap_is_told_and_a_jump_is_corrected() -> None:
    clock = SessionClock(lossless=False)
    clock.capture(0, 0, now=0.0)
    assert clock.capture(0, 30 * S, now=30.0) == Stamp(30_000, gap_ms=30_000)
    jumped = clock.capture(0, 10**12 * S, now=31.0)
    assert (jumped.t_ms, jumped.jump_ms > 10**14) == (31_000, True)
    assert clock.capture(0, (10**12 + 1) * S, now=32.0) == Stamp(32_000)


def test_a_recording_runs_ahead_of_arrival() -> None:
    clock = SessionClock(lossless=True)
    clock.capture(0, 0, now=0.0)
    assert clock.capture(0, 3600 * S, now=0.1) == Stamp(3_600_000, gap_ms=3_600_000)
    assert clock.expected(now=99.0) == 3_600_000


@pytest.mark.parametrize("lossless", [False, True])
def test_a_connection_that_kept_its_clock_goes_on(lossless: bool) -> None:
    clock = SessionClock(lossless=lossless)
    clock.capture(0, 100 * S, now=0.0)
    clock.capture(0, 105 * S, now=5.0)
    clock.new_publisher()
    assert clock.capture(0, 108 * S, now=8.3).t_ms == 8000


@pytest.mark.parametrize(("lossless", "expected"), [(False, 8000), (True, 5000)])
def test_a_connection_with_a_new_clock_goes_on_too(lossless: bool, expected: int) -> None:
    clock = SessionClock(lossless=lossless)
    clock.capture(0, 100 * S, now=0.0)
    clock.capture(0, 105 * S, now=5.0)
    clock.new_publisher()
    assert clock.capture(0, 1 * S, now=8.0).t_ms == expected
    assert clock.capture(0, 2 * S, now=9.0).t_ms == expected + 1000


def test_another_gateway_takes_the_clock_up() -> None:
    before = SessionClock(lossless=False)
    before.capture(0, 100 * S, now=1000.0)
    after = SessionClock(lossless=False, newest_ms=before.newest_ms, newest_at=1000.0, origin_us=before.origin_us)
    assert after.capture(0, 103 * S, now=1003.2).t_ms == 3000


def test_what_was_kept_through_a_long_outage_keeps_its_times_at_another_gateway() -> None:
    clock = SessionClock(lossless=False, newest_ms=13_000, newest_at=1000.0, origin_us=0)
    assert clock.capture(0, 13 * S, now=1110.0, resumes=True) == Stamp(13_000)
    assert clock.capture(1, 12 * S, now=1110.0, resumes=True) == Stamp(12_000)


def test_a_track_that_begins_long_after_the_others_has_a_clock_of_its_own() -> None:
    clock = SessionClock(lossless=False, newest_ms=13_000, newest_at=1000.0, origin_us=0)
    assert clock.capture(0, 12 * S, now=1110.0).t_ms == 123_000


def test_media_without_capture_time_follow_arrival_or_their_place() -> None:
    clock = SessionClock(lossless=False)
    assert clock.expected(now=5.0) == 0
    assert clock.place(0, 0, now=5.0) == Stamp(0)
    assert clock.expected(now=6.5) == 1500
    assert clock.place(0, 4000, now=7.0) == Stamp(4000)
    with pytest.raises(BackwardTime):
        clock.place(0, 3999, now=7.0)
    assert clock.capture(1, 77 * S, now=8.0).t_ms == 5000


@pytest.mark.parametrize("capture_us", [-(2**63), 2**63 - 1])
def test_absurd_capture_times_are_harmless(capture_us: int) -> None:
    clock = SessionClock(lossless=False)
    assert clock.capture(0, capture_us, now=0.0).t_ms == 0
    assert 0 <= clock.capture(1, 2**63 - 1, now=1.0).t_ms <= 1001


def test_only_the_track_whose_clock_jumps_is_corrected() -> None:
    clock = SessionClock(lossless=False)
    clock.capture(0, 0, now=0.0)
    clock.capture(1, 0, now=0.0)
    clock.capture(0, 5 * S, now=5.0)
    assert clock.capture(1, 3605 * S, now=5.0) == Stamp(5000, jump_ms=3_600_000)
    assert clock.capture(0, 6 * S, now=6.0) == Stamp(6000)
    assert clock.capture(1, 3606 * S, now=6.0) == Stamp(6000)


def test_tracks_that_jump_together_stay_together() -> None:
    clock = SessionClock(lossless=False)
    for track in (0, 1):
        clock.capture(track, 0, now=0.0)
    assert clock.capture(0, 1000 * S, now=2.0) == Stamp(2000, jump_ms=998_000)
    assert clock.capture(1, 1000 * S + 20_000, now=2.3) == Stamp(2020, jump_ms=998_000)


def test_a_single_wrong_time_stamp_does_not_move_the_clock() -> None:
    clock = SessionClock(lossless=False)
    clock.capture(0, 0, now=0.0)
    assert clock.capture(0, 5000 * S, now=1.0).t_ms == 1000
    assert clock.capture(0, 2 * S, now=2.0) == Stamp(2000, jump_ms=-4_999_000)
    assert clock.capture(0, 3 * S, now=3.0) == Stamp(3000)


def test_a_live_clock_that_stays_back_is_another_one() -> None:
    """A camera that restarts at 1970 is refused at first, and followed once it is plain that it means it."""
    clock = SessionClock(lossless=False)
    clock.capture(0, 1000 * S, now=0.0)
    clock.capture(0, 1030 * S, now=30.0)
    for second in range(10):
        with pytest.raises(BackwardTime):
            clock.capture(0, second * S, now=31.0 + second)
    assert clock.capture(0, 10 * S, now=41.0) == Stamp(41_000, gap_ms=11_000, jump_ms=-1_031_000)
    assert clock.capture(0, 11 * S, now=42.0) == Stamp(42_000)


def test_a_recordings_clock_that_stays_back_is_refused_for_ever() -> None:
    clock = SessionClock(lossless=True)
    clock.capture(0, 1000 * S, now=0.0)
    clock.capture(0, 1030 * S, now=0.1)
    for second in range(30):
        with pytest.raises(BackwardTime):
            clock.capture(0, (1000 + second) * S, now=1.0 + second)
    assert clock.capture(0, 1031 * S, now=40.0) == Stamp(31_000)


def test_a_gap_is_one_tracks_own() -> None:
    clock = SessionClock(lossless=False)
    for second in range(31):
        clock.capture(0, second * S, now=float(second))
        if second in (0, 30):
            stamp = clock.capture(1, second * S, now=float(second))
    assert stamp == Stamp(30_000, gap_ms=30_000)


def test_a_camera_that_joins_with_a_clock_of_its_own_is_placed_by_its_arrival() -> None:
    clock = SessionClock(lossless=False)
    clock.capture(0, 10**9 * S, now=0.0)
    assert clock.capture(1, 5 * S, now=4.0) == Stamp(4000)
    assert clock.capture(2, 10**12 * S, now=5.0) == Stamp(5000)
    assert clock.capture(0, (10**9 + 6) * S, now=6.0) == Stamp(6000)
    assert clock.capture(1, 7 * S, now=6.1) == Stamp(6000)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_whatever_clients_state_times_of_a_track_do_not_go_back_and_time_does_not_run_away(
    seed: int, lossless: bool
) -> None:
    source = random.Random(seed)
    clock, newest, now = SessionClock(lossless=lossless), [0] * 4, 1000.0
    captured = [source.randrange(10**12) for _ in newest]
    for _ in range(400):
        now += source.expovariate(10)
        track = source.randrange(4)
        captured[track] += source.choice((0, 66_000, 66_000, -200_000, 10 * S, -3600 * S, 10**6 * S, -(10**12)))
        if source.random() < 0.02:
            clock.new_publisher()
        before = clock.newest_ms
        try:
            stamp = clock.capture(track, captured[track], now)
        except BackwardTime:
            continue
        assert stamp.t_ms >= newest[track]
        assert stamp.t_ms <= max(before, 0) + (86_400_000 if lossless else 60_000) + (now - 1000) * 1000 + 1
        newest[track] = stamp.t_ms


@pytest.mark.parametrize("lossless", [False, True])
def test_what_is_sent_again_after_a_broken_connection_keeps_its_times(lossless: bool) -> None:
    """A gateway may have read far ahead of what it had acknowledged when it died."""
    clock = SessionClock(lossless=lossless, newest_ms=30_000, newest_at=100.0, origin_us=50 * S)
    assert clock.capture(1, 72 * S, now=103.0, resumes=True) == Stamp(22_000)
    assert clock.capture(0, 81 * S, now=103.0) == Stamp(31_000)


def test_a_client_that_begins_anew_is_not_taken_for_one_that_goes_on() -> None:
    clock = SessionClock(lossless=False, newest_ms=30_000, newest_at=100.0, origin_us=0)
    assert clock.capture(1, 1 * S, now=103.0).t_ms == 33_000
