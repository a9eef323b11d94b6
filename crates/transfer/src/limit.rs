//! `--bwlimit`: one token bucket for everything that is written, whose rate may change with the local time.

use std::fmt;
use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use model::Bandwidth;
use tokio::sync::Mutex;

/// Blocks handed out at once when a limit is on; small enough that slow limits stay smooth.
pub const LIMITED_BLOCK: usize = 64 << 10;

/// A change of the rate is seen within this time, also by those who are waiting.
const LOOK: Duration = Duration::from_secs(1);
/// What was not used may be caught up on for so long, because timers are late; more would be a burst.
const CREDIT: Duration = Duration::from_millis(20);

const LEAST_WAIT: Duration = Duration::from_micros(100);

/// The minute of the week, from Monday 00:00 local time.
type LocalMinute = dyn Fn() -> u32 + Send + Sync;

pub struct Limiter {
    plan: Bandwidth,
    minute: Box<LocalMinute>,
    /// The rate, and when it was looked up.
    rate: StdMutex<Option<(Instant, Option<u64>)>>,
    /// Held by the one who is next; the others queue up in order.
    flow: Mutex<Flow>,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Limiter {
    pub fn new(plan: Bandwidth) -> Self {
        Self::with_clock(plan, Box::new(local_minute))
    }

    pub fn with_clock(plan: Bandwidth, minute: Box<LocalMinute>) -> Self {
        Self { plan, minute, rate: StdMutex::new(None), flow: Mutex::new(Flow::default()) }
    }

    /// Whether there is a limit just now.
    pub fn is_limited(&self) -> bool {
        !self.plan.is_off() && self.rate(Instant::now()).is_some()
    }

    /// Returns when `bytes` may be sent.
    pub async fn take(&self, bytes: usize) {
        if self.plan.is_off() {
            return;
        }
        let mut flow = self.flow.lock().await;
        loop {
            let now = Instant::now();
            match flow.wait(now, self.rate(now)) {
                Some(wait) => tokio::time::sleep(wait.min(LOOK)).await,
                None => return flow.spend(bytes),
            }
        }
    }

    fn rate(&self, now: Instant) -> Option<u64> {
        let mut known = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((at, rate)) if !self.plan.changes() || now.saturating_duration_since(at) < LOOK => rate,
            _ => {
                let rate = self.plan.at((self.minute)());
                *known = Some((now, rate));
                rate
            }
        }
    }
}

/// In summer and winter what the clock on the wall shows: an hour that is skipped has no entries, one that comes twice
/// has its entries twice.
fn local_minute() -> u32 {
    let now = jiff::Zoned::now();
    let day = u32::from(now.weekday().to_monday_zero_offset().unsigned_abs());
    (day * 24 + u32::from(now.hour().unsigned_abs())) * 60 + u32::from(now.minute().unsigned_abs())
}

/// What was sent and is not yet covered by the time that has passed.
#[derive(Debug, Default)]
struct Flow {
    /// Bytes; below zero there is credit.
    debt: f64,
    settled: Option<Instant>,
}

impl Flow {
    /// How long until more may be sent, at the rate of this moment; `None` is now.
    fn wait(&mut self, now: Instant, rate: Option<u64>) -> Option<Duration> {
        let passed = self.settled.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let Some(rate) = rate else {
            // Nothing is owed for the time without a limit, and nothing saved.
            self.debt = 0.0;
            return None;
        };
        let rate = rate as f64;
        self.debt = (self.debt - rate * passed.as_secs_f64()).max(-rate * CREDIT.as_secs_f64());
        // An hour is as good as for ever: the caller looks again much earlier. No timer is as fine as the least of it.
        (self.debt > 0.0).then(|| Duration::from_secs_f64((self.debt / rate).min(3600.0)).max(LEAST_WAIT))
    }

    fn spend(&mut self, bytes: usize) {
        self.debt += bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    const BLOCK: usize = LIMITED_BLOCK;

    /// Seconds that so many blocks take when everybody waits exactly as told, `late` more each time.
    fn seconds(blocks: usize, late: Duration, rate: impl Fn(f64) -> Option<u64>) -> f64 {
        let begin = Instant::now();
        let (mut flow, mut now) = (Flow::default(), begin);
        for _ in 0..blocks {
            while let Some(wait) = flow.wait(now, rate((now - begin).as_secs_f64())) {
                now += wait.min(LOOK) + late;
            }
            flow.spend(BLOCK);
        }
        (now - begin).as_secs_f64()
    }

    #[test]
    fn the_rate_is_kept_also_where_timers_are_late() {
        for late in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(5)] {
            // 100 MiB at 10 MiB/s.
            let took = seconds(1600, late, |_| Some(10 << 20));
            assert!((9.8..10.2).contains(&took), "{took} s, timers late by {late:?}");
        }
    }

    #[test]
    fn a_change_takes_effect_while_a_slow_rate_is_waited_for_and_no_burst_follows() {
        // One block at 100 bytes a second would take eleven minutes.
        let took = seconds(3, Duration::ZERO, |at| if at < 5.0 { Some(100) } else { None });
        assert!(took < 5.0 + 1.1, "{took} s");
        // A limit after none: 10 MiB at 1 MiB/s take ten seconds, whatever was sent before.
        let took = seconds(16_384 + 160, Duration::ZERO, |at| if at < 0.5 { Some(2 << 30) } else { Some(1 << 20) });
        assert!((9.5..11.5).contains(&took), "{took} s");
        // Nothing is saved up in a pause.
        let mut flow = Flow::default();
        let begin = Instant::now();
        assert_eq!(flow.wait(begin, Some(1 << 20)), None);
        flow.spend(BLOCK);
        let later = begin + Duration::from_secs(1000);
        let mut sent = 0;
        while flow.wait(later, Some(1 << 20)).is_none() {
            flow.spend(BLOCK);
            sent += 1;
        }
        assert!(sent <= 2, "{sent} blocks at once after a pause");
    }

    #[tokio::test]
    async fn those_who_wait_see_the_clock_turn_and_all_get_through() {
        let minute = Arc::new(AtomicU32::new(0));
        let clock = minute.clone();
        let plan = "00:00,100B 12:00,100M".parse().unwrap();
        let limiter = Arc::new(Limiter::with_clock(plan, Box::new(move || clock.load(Ordering::SeqCst))));
        assert!(limiter.is_limited());
        limiter.take(BLOCK).await;
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                tokio::spawn({
                    let limiter = limiter.clone();
                    async move { limiter.take(BLOCK).await }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        // One that gives up its place holds up nobody.
        waiting[0].abort();
        assert!(waiting.iter().skip(1).all(|task| !task.is_finished()));
        minute.store(13 * 60, Ordering::SeqCst);
        let begin = Instant::now();
        for task in waiting.into_iter().skip(1) {
            task.await.unwrap();
        }
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits() {
        let limiter = Limiter::new(Bandwidth::default());
        assert!(!limiter.is_limited());
        for _ in 0..1000 {
            limiter.take(usize::MAX).await;
        }
    }

    #[test]
    fn the_clock_on_the_wall_is_within_the_week() {
        assert!(local_minute() < 7 * 24 * 60);
    }
}
